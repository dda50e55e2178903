"""Texts come from files of several kinds; the sample is even over the files, distinct and bounded in memory."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from m2d_train.distil.corpus import Reading, load_texts
from m2d_train.distil.mix import MIX_LICENSE, mix_texts, write
from m2d_train.distil.texts import Sample, fair_share, sample_texts

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import DataError, SpecError
from m2d_export.text.tokenizer import Tokenizer
from tests.support.distillations import made_up_texts, write_texts


def taken(*paths: Path, count: int = 1000) -> set[str]:
    return set(sample_texts(paths, count, 1000, 0).take(count))


def test_plain_packed_and_json_lines_give_the_same_texts(tmp_path: Path) -> None:
    texts = made_up_texts(50)
    plain = write_texts(tmp_path / "a.txt", 50)
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    lines = tmp_path / "c.jsonl"
    lines.write_text("".join(json.dumps({"_id": "1", "text": text}) + "\n" for text in texts))
    both = tmp_path / "d.jsonl.gz"
    both.write_bytes(gzip.compress(lines.read_bytes()))
    for path in (plain, packed, lines, both):
        assert taken(path) == set(texts)
    assert taken(tmp_path) == set(texts)


def test_of_a_folder_files_of_texts_are_read_and_hidden_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_texts(tmp_path / "inner" / "a.txt", 5)
    for name in (".hidden.txt", "picture.png", "labels.tsv"):
        (tmp_path / name).write_bytes(b"\xff\xfe not a text")
    assert taken(tmp_path) == set(made_up_texts(5))
    os.mkfifo(tmp_path / "inner" / "pipe.txt")
    assert taken(tmp_path) == set(made_up_texts(5))
    (tmp_path / "inner" / "a.txt").unlink()
    with pytest.raises(DataError, match=r"\.txt"):
        taken(tmp_path)


def test_blank_lines_repeats_byte_order_marks_and_windows_line_ends_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa cat\r\n\r\n  a cat \r\na dog")
    sample = sample_texts([path], 10, 1000, 0)
    assert set(sample.take(10)) == {"a cat", "a dog"}
    assert sample.read == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("picture.txt", b"\x89PNG\r\n\x1a\n"),
        ("zeros.txt", b"a\0b\n"),
        ("disk.txt", bytes(3 << 20)),
        ("utf16.txt", "a cat".encode("utf-16")),
        ("cut.txt.gz", gzip.compress(b"a cat\n" * 1000)[:-12]),
        ("plain.txt.gz", b"a cat\n"),
        ("broken.jsonl", b'{"text": "a cat"\n'),
        ("field.jsonl", b'{"sentence": "a cat"}\n'),
        ("number.jsonl", b'{"text": 1}\n'),
        ("list.jsonl", b'["a cat"]\n'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # gzip writes the time into its bytes
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        taken(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none"):
        taken(tmp_path / "none")


def test_each_file_gives_the_same_number_as_far_as_it_has_it(tmp_path: Path) -> None:
    assert fair_share([10, 1000, 500], 310) == 150
    small, large = write_texts(tmp_path / "a.txt", 20, 1), write_texts(tmp_path / "b.txt", 2000, 2)
    chosen = taken(large, small, count=200)
    assert len(chosen) == 200
    assert set(made_up_texts(20, 1)) <= chosen


def test_the_sample_does_not_depend_on_order_and_a_smaller_one_is_a_part_of_it() -> None:
    texts = made_up_texts(500)
    samples = []
    for given in (texts, texts[::-1]):
        sample = Sample(100, 1000, 7)
        for text in given:
            sample.add("a", text)
        samples.append(sample)
    assert samples[0].take(100) == samples[1].take(100)
    assert set(samples[0].take(30)) < set(samples[0].take(100))


def test_memory_grows_with_the_sample_and_not_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("w") as file:
        file.write("long " * 2_000_000 + "\n")  # a line of 10 MB is cut
        file.writelines(f"text {number} {'word ' * 40}\n" for number in range(40_000))
    tracemalloc.start()
    taken = sample_texts([path], 100, 100, 0).take(100)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken) == 100
    assert max(map(len, taken)) <= 100
    assert most < 5e6


def test_each_text_has_one_of_the_prompts_in_turn_and_held_out_texts_are_learned_from_by_none(
    plain: Path, texts: Path
) -> None:
    checkpoint = load_checkpoint(str(plain))
    found = load_texts(checkpoint, Reading((str(texts),), max_texts=1000, max_tokens=40), "cpu")
    corpus = found.solved
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.text)
    prompts = [tuple(tokenizer.encode([""], prompt)[0].ids[:-1]) for prompt in checkpoint.text.prompts.values()]
    for place, item in enumerate(corpus.own[:12]):
        prompt = prompts[place % len(prompts)]
        assert tuple(item.ids[: len(prompt)]) == prompt
    every = [tuple(item.ids) for part in (corpus.own, corpus.mix, corpus.held_out) for item in part]
    assert (found.own, found.mix, len(every)) == (250, 750, 1000)
    assert len(corpus.held_out) == 25 + 75  # the mix adds some, because the user's are few
    assert max(map(len, every)) <= 40


def test_on_a_gpu_more_texts_are_trained_on_than_heads_are_solved_from(plain: Path, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "many.txt", 900)
    found = load_texts(load_checkpoint(str(plain)), Reading((str(path),), "none", max_texts=300), "cuda")
    assert (len(found.solved.own), len(found.trained.own)) == (270, 870)
    assert found.solved.held_out == found.trained.held_out


def test_a_cut_that_leaves_no_room_for_a_text_is_refused(plain: Path, texts: Path) -> None:
    with pytest.raises(SpecError, match="--max-tokens"):
        load_texts(load_checkpoint(str(plain)), Reading((str(texts),), max_tokens=4), "cpu")


def test_texts_that_the_checkpoint_cannot_tell_apart_are_refused(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "unknown.txt"
    path.write_text("".join(chr(0x4E2D) * number + "\n" for number in range(1, 400)))  # every word is unknown
    with pytest.raises(DataError, match="as the checkpoint reads the texts, only"):
        load_texts(load_checkpoint(str(plain)), Reading((str(path),), "none"), "cpu")


def test_the_mix_of_the_package_is_small_english_and_has_its_licence() -> None:
    texts = mix_texts(None, 60_000, 1000, 0)
    assert len(texts) > 50_000
    package = Path(pytest.importorskip("m2d_train.distil").__path__[0])
    assert (package / "mix.txt.gz").stat().st_size < 2e6
    assert "Princeton University" in (package / MIX_LICENSE).read_text()


def test_the_mix_is_made_of_wordnets_definitions_and_examples(tmp_path: Path) -> None:
    folder, target = tmp_path / "wordnet", tmp_path / "made"
    folder.mkdir(), target.mkdir()
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        entry = f'0 03 n | a {name} that is defined; "an example of a {name} here"  \n'
        (folder / name).write_text(f"  1 The licence of it.  \n{entry}")
    write(folder, target)
    texts = gzip.decompress((target / "mix.txt.gz").read_bytes()).decode().splitlines()
    assert "a data.noun that is defined" in texts
    assert "an example of a data.adv here" in texts
    assert texts == sorted(texts)
    assert (target / MIX_LICENSE).read_text() == "The licence of it.\n"
