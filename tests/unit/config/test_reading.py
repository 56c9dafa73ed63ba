"""What a file must be to be a config."""

import pytest
import yaml

from fgit.common.errors import UserError
from fgit.common.files import sha256
from fgit.config import read_config
from tests.unit.config.test_experiment import SMALL


def test_numbers_as_yaml_writes_them(tmp_path):
    """YAML 1.1 reads 5e-6 as text; it means the number all the same."""
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL) + "train: {learning_rate: 5e-6, epochs: 2}\n")
    assert read_config(path).resolve("fgit").learning_rate == 5e-6


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n", "null"])
def test_an_empty_file(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml: this config is empty; start from workflow/"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "kind"), [("- a\n- b\n", "list"), ("[]", "list"), ("name", "str"), ("3", "int")]
)
def test_not_a_mapping(tmp_path, text, kind):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"c\.yaml: a config is a mapping .*, not {kind}$"):
        read_config(path)


@pytest.mark.parametrize("content", [b"name: [", b"a: b: c", b"\tname: x", b"a: \xff", b"a: *b"])
def test_invalid_yaml(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.yaml: not valid YAML: "):
        read_config(path)


def test_no_python_objects_from_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch made']")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no\.yaml: no such config file"):
        read_config(tmp_path / "no.yaml")


def test_reading_leaves_the_file_alone(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    before = sha256(path)
    read_config(path)
    assert sha256(path) == before
