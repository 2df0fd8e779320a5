from dataclasses import replace
from pathlib import Path

from kit.doctor.check import run
from kit.doctor.checks import disk
from kit.doctor.facts import Disk, Folders
from kit.doctor.finding import Status
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.units import GIB
from tests.unit.doctor.machines import LAPTOP, WORKSTATION

SHORT = Room("disk at /data (50 GiB to download)", 10 * GIB, 75 * GIB, "make room", "disk")


def test_weights():
    assert disk.weights.judge(LAPTOP).summary == "500.00 GiB free, 75.00 GiB needed"
    here = replace(LAPTOP, disk=Disk((), None))
    assert disk.weights.judge(here).summary == "no weights have to be fetched"


def test_too_little_disk_is_a_failure_where_the_model_is_to_be_served():
    short = Disk((SHORT,), None)
    finding = disk.weights.judge(replace(LAPTOP, disk=short))
    assert (finding.status, finding.remedy) == ("warn", "make room")
    assert finding.evidence[0].source == SHORT.what
    assert disk.weights.judge(replace(WORKSTATION, disk=short)).status is Status.FAIL


def test_docker():
    assert disk.docker.judge(LAPTOP).summary == "the image is here already"
    room = Room("disk at /var/lib/docker", 20 * GIB, 16 * GIB, "prune", "disk")
    enough = replace(LAPTOP, disk=Disk((), room))
    assert disk.docker.judge(enough).status is Status.PASS
    short = replace(LAPTOP, disk=Disk((), replace(room, free_bytes=GIB)))
    assert disk.docker.judge(short).status is Status.WARN
    far = replace(LAPTOP, disk=Disk((), Unavailable("the engine is on another machine")))
    (result,) = run([disk.docker], far)
    assert result.finding.status is Status.SKIP


def test_writable():
    assert disk.writable.judge(LAPTOP).status is Status.PASS
    refused = ((Path("/data"), "Read-only file system"),)
    finding = disk.writable.judge(replace(LAPTOP, folders=Folders(refused)))
    assert finding.status is Status.FAIL
    assert finding.evidence[0].observed == "Read-only file system"
