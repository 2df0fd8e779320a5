from kit.service.missing_weights import Missing, WeightsMissing, fetch_command, lines_of, look_for
from kit.settings import Settings
from kit.units import GIB

MISSING = Missing(
    "spark: chat", 50 * GIB, 10 * GIB, 25 * GIB, "A licence", ("Be nice.", "word " * 30)
)


def test_size_time_and_licence():
    text = "\n".join(lines_of(MISSING, convert=True))
    assert "about 50.00 GiB to download, of which 10.00 GiB are here, 25.00 GiB converted" in (
        " ".join(text.split())
    )
    assert "about 6 min at 1 Gbit/s, 57 min at 100 Mbit/s; then minutes to convert" in (
        " ".join(text.split())
    )
    assert "  licence  A licence\n           - Be nice." in text
    assert max(map(len, text.splitlines())) <= 80


def test_without_a_conversion():
    text = "\n".join(lines_of(MISSING, convert=False))
    assert "convert" not in text


def test_what_the_catalogue_says(tmp_path):
    missing = look_for(Settings(tmp_path, tmp_path))
    assert missing.what.startswith("spark-13b-chat: chat")
    assert missing.size_bytes > missing.converted_bytes > 20 * GIB
    assert (missing.here_bytes, missing.left_bytes) == (0, missing.size_bytes)
    assert "non-commercial" in " ".join(missing.terms)


def test_the_error_carries_the_command():
    error = WeightsMissing.of(convert=True)
    assert error.exit_code == 3
    assert fetch_command(convert=True) in error.hint
    assert not WeightsMissing.of(convert=False).convert
