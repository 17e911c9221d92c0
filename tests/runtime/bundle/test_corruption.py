"""Ten thousand damaged bundles: each is refused with one line, none is opened, none ends in
anything else.

Every damage is a function of a bundle's folder and a seeded generator; a case is known again by
its number. What a damage leaves as it was is no damage, and is drawn again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from feallm.runtime.bundle.open import open_bundle, shipped_path
from feallm.runtime.bundle.signature import made
from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import MANIFEST, SIGNATURE, canonical, digest

TRICKS = (
    *("", ".", "..", "../x", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "a/b", "./x"),
    *("a\\b", "..\\x", "C:\\x", "C:x", "~", "$HOME", "%2e%2e/x", "file:///x", "-x", ".x", "x."),
    *("x\0y", "x\ny", "x\n", "\x1b[2J", "\u202ex", "\ufeffx", "é", "e\u0301", "x" * 255, " "),
    *("manifest.json", "MANIFEST.JSON", "manifest.sig", "Vision.onnx", "vision.onnx", "NUL", "*"),
    *("eyes.mlpackage", "eyes.mlpackage/", "eyes.mlpackage/Manifest.json", "vision.onnx/."),
    "x" * 9000,
)
"""In place of a name, or of any other text."""
VALUES = (None, True, False, 0, 1, -1, 3.5, 10**30, -(10**400), 1e-300, 1e300, "", "1", "NaN", [])
VALUES += ([1], [[]], [[[["x"]]]], {}, {"a": 1}, {"": None}, "0" * 64, ["vision"], "vision")
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "01", "1.", "0x1", "'x'", "nul", "1E5", "")
RAW += ('"\\ud800"', '"\\u0061"', '"\\x"', "1.50", "9" * 3000, "9" * 9000)
RAW += ("[" * 3000, '{"a":' * 3000)


def found(root):
    """Everything in a folder by its path within it, links as links."""
    start, result = os.fsencode(root), {}
    for folder, folders, names in os.walk(start):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            result[os.path.relpath(path, start)] = os.lstat(path)
    return result


def damaged(good, root):
    """Whether anything is not as in the good bundle. What is still the same file is not read."""
    here, there = found(good), found(root)
    if here.keys() != there.keys():
        return True
    for name, one in here.items():
        other = there[name]
        if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
            return True
        if stat.S_ISREG(one.st_mode) and one.st_ino != other.st_ino:
            name = os.fsdecode(name)
            if one.st_size != other.st_size:
                return True
            if (good / name).read_bytes() != (root / name).read_bytes():
                return True
    return False


def lay(good, root):
    """The good bundle by hard links; of what lies there already, only what is not it is made anew,
    for folders take long on some disks."""
    root.mkdir(exist_ok=True)
    here, there = found(good), found(root)

    def keeps(name):
        if name not in here or stat.S_IFMT(here[name].st_mode) != stat.S_IFMT(there[name].st_mode):
            return False
        return stat.S_ISDIR(here[name].st_mode) or here[name].st_ino == there[name].st_ino

    for name in there:
        if not keeps(name) and os.path.lexists(os.path.join(os.fsencode(root), name)):
            remove(root / os.fsdecode(name))
    for name, entry in here.items():
        path = root / os.fsdecode(name)
        if not os.path.lexists(path):
            if stat.S_ISDIR(entry.st_mode):
                path.mkdir()
            else:
                os.link(good / os.fsdecode(name), path)


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def folders(root):
    return [root, *sorted(path for path in root.rglob("*") if path.is_dir())]


def anything(root):
    return sorted(root.rglob("*"))


def put(path, data):
    """Other bytes in a file; not through the hard link to the good one."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# ---- files -------------------------------------------------------------------------------------


def flipped(root, rng):
    path = rng.choice(files(root))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    put(path, bytes(data))


def cut(root, rng):
    path = rng.choice(files(root))
    data = path.read_bytes()
    put(path, data[: rng.choice((0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data))))])


def cut_in_front(root, rng):
    path = rng.choice(files(root))
    put(path, path.read_bytes()[rng.choice((1, 16, 512)) :])


def grown(root, rng):
    path = rng.choice(files(root))
    more = rng.choice((b"\0", b"\n", b" ", b"{}", rng.randbytes(rng.randrange(1, 5000))))
    put(path, path.read_bytes() + more if rng.random() < 0.8 else more + path.read_bytes())


def overwritten(root, rng):
    path = rng.choice(files(root))
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    length = min(rng.choice((1, 4, 64, 4096)), len(data) - start)
    data[start : start + length] = rng.choice((bytes(length), rng.randbytes(length)))
    put(path, bytes(data))


def moved_within(root, rng):
    """Two parts of one file change places: the same bytes, the same size."""
    path = rng.choice(files(root))
    data = path.read_bytes()
    k = rng.randrange(1, len(data))
    put(path, data[k:] + data[:k])


def swapped(root, rng):
    one, other = rng.sample(files(root), 2)
    first, second = one.read_bytes(), other.read_bytes()
    put(one, second)
    put(other, first)


def replaced(root, rng):
    one, other = rng.sample(files(root), 2)
    put(one, other.read_bytes())


# ---- what lies where ---------------------------------------------------------------------------


def removed(root, rng):
    remove(rng.choice(anything(root)))


def renamed(root, rng):
    path = rng.choice(anything(root))
    tricks = [name for name in TRICKS if 0 < len(name) < 200 and not set(name) & set("/\0")]
    name = rng.choice((path.name.swapcase(), f"{path.name}~", f".{path.name}", *tricks[2:]))
    if not os.path.lexists(path.with_name(name)):
        path.rename(path.with_name(name))


def added(root, rng):
    names = [name for name in TRICKS if 0 < len(name) < 256 and not set(name) & set("/\0")][2:]
    name = os.fsencode(rng.choice((*names, "__pycache__", ".DS_Store", "manifest.json~")))
    name = rng.choice((name, name, b"\xff\xfe", b"x\x80.onnx"))
    path = os.path.join(os.fsencode(rng.choice(folders(root))), name)
    if os.path.lexists(path):
        return
    kind = rng.randrange(5)
    if kind == 0:
        os.mkdir(path)
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        os.symlink(rng.choice((".", "..", "vision.onnx", "/etc/passwd", "nowhere")), path)
    else:
        with open(path, "wb") as file:
            file.write(rng.choice((b"", b"{}", (root / MANIFEST).read_bytes())))


def linked(root, rng):
    """A link in place of a file or a folder: to the same bytes outside or inside, or nowhere."""
    path = rng.choice(anything(root))
    away = root.parent / "away"
    if away.exists():
        remove(away)
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, away)
    inside = next((f for f in files(root) if f != path and path not in f.parents), root)
    remove(path)
    relative = os.path.relpath(away, path.parent)
    path.symlink_to(rng.choice((away, relative, inside, "nowhere", path.name, "/dev/zero")))


def another_kind(root, rng):
    """A folder, a pipe or a socket in place of a file; a file in place of a folder."""
    path = rng.choice(anything(root))
    data = None if path.is_dir() else path.read_bytes()
    remove(path)
    kind = rng.randrange(4)
    if kind == 0 and data is not None:
        path.mkdir()
        if rng.random() < 0.5:
            (path / path.name).write_bytes(data)
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif data is None:
        path.write_bytes(b"")
    else:
        path.mkdir()


def deeper(root, rng):
    """Everything in a folder of its own, as some archives unpack."""
    inner = root / rng.choice(("bundle", "edge", "eyes.mlpackage", "vision.onnx"))
    away = root.parent / "whole"
    root.rename(away)
    root.mkdir()
    away.rename(inner)


# ---- the manifest ------------------------------------------------------------------------------


def places(value, way=()):
    """The way to each value of the fields."""
    found = [way] if way else []
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        found += [place for key in keys for place in places(value[key], (*way, key))]
    return found


def at(fields, way):
    for key in way:
        fields = fields[key]
    return fields


def rewrite(root, fields, again):
    """The fields as the manifest, with a digest that fits them where `again`."""
    if again and "digest" in fields:
        fields["digest"] = digest(fields)
    put(root / MANIFEST, canonical(fields))


class Fields:
    """Damages of the manifest's fields; `again`: with a digest that fits what was changed."""

    def __init__(self, change, again):
        self.change, self.again = change, again
        self.__name__ = f"{change.__name__}{' with its digest' if again else ''}"

    def __call__(self, root, rng):
        fields = json.loads((root / MANIFEST).read_text())
        self.change(fields, rng)
        rewrite(root, fields, self.again)


def trick(fields, rng):
    ways = [way for way in places(fields) if isinstance(at(fields, way), str)]
    way = rng.choice(ways + [way for way in ways if way[-1] == "file"] * 8)
    at(fields, way[:-1])[way[-1]] = rng.choice(TRICKS)


def trick_in_a_name(fields, rng):
    way = rng.choice([w for w in places(fields) if isinstance(at(fields, w), dict)] + [()])
    place = at(fields, way)
    if place:
        place[rng.choice(TRICKS)] = place.pop(rng.choice(list(place)))


def another_value(fields, rng):
    way = rng.choice(places(fields))
    at(fields, way[:-1])[way[-1]] = rng.choice(VALUES)


def another_number(fields, rng):
    ways = [w for w in places(fields) if type(at(fields, w)) in (int, float)]
    way = rng.choice(ways)
    value = at(fields, way)
    changes = (value + 1, value - 1, -value, value * 2, value + 0.5, value * 1e6, float(value))
    at(fields, way[:-1])[way[-1]] = rng.choice(changes)


def without(fields, rng):
    way = rng.choice(places(fields))
    del at(fields, way[:-1])[way[-1]]


def with_more(fields, rng):
    way = rng.choice([w for w in places(fields) if isinstance(at(fields, w), dict | list)] + [()])
    place, value = at(fields, way), rng.choice((*VALUES, *TRICKS))
    if isinstance(place, dict):
        place[rng.choice(("url", "path", "Digest", "schema", *TRICKS))] = value
    else:
        place.insert(rng.randrange(len(place) + 1), value)


def artifacts_swapped(fields, rng):
    one, other = rng.sample(sorted(fields["artifacts"]), 2)
    first, second = fields["artifacts"][one], fields["artifacts"][other]
    for key in rng.choice((["sha256"], ["file"], ["size_bytes"], ["sha256", "size_bytes"], ())):
        first[key], second[key] = second[key], first[key]
        return
    fields["artifacts"][one], fields["artifacts"][other] = second, first


def same_file(fields, rng):
    one, other = rng.sample(sorted(fields["artifacts"]), 2)
    name = fields["artifacts"][one]["file"]
    fields["artifacts"][other]["file"] = rng.choice((name, name.swapcase()))


def another_hash(fields, rng):
    place = rng.choice(list(fields["artifacts"].values()))
    place["sha256"] = rng.choice(
        (f"{rng.getrandbits(256):064x}", place["sha256"].upper(), "0" * 64)
    )


def another_schema(fields, rng):
    fields["schema_version"] = rng.choice((1, 2, 4, 0, -3, 3.0, "3", None, True, [3], {"3": 3}))


def another_digest(root, rng):
    fields = json.loads((root / MANIFEST).read_text())
    fields["digest"] = rng.choice((f"{rng.getrandbits(256):064x}", fields["digest"].upper(), None))
    rewrite(root, fields, False)


def another_form(root, rng):
    """The same fields written otherwise."""
    path = root / rng.choice((MANIFEST, SIGNATURE) if (root / SIGNATURE).exists() else (MANIFEST,))
    data = path.read_bytes()
    fields = json.loads(data)
    back = dict(reversed(fields.items()))
    forms = (
        lambda: json.dumps(fields, indent=2, sort_keys=True).encode() + b"\n",
        lambda: json.dumps(fields, indent=1, sort_keys=True).encode(),
        lambda: json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(),
        lambda: json.dumps(back, indent=1).encode() + b"\n",
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode().encode("utf-16"),
        lambda: data.replace(b"a", b"\\u0061", 1),
        lambda: data.replace(b'": ', b'" : ', 1),
    )
    put(path, rng.choice(forms)())


def doubled(root, rng):
    """A line of the manifest twice: of two equal names, readers take one or the other."""
    lines = (root / MANIFEST).read_bytes().splitlines(keepends=True)
    k = rng.choice([k for k, line in enumerate(lines) if line.endswith(b",\n")])
    other = rng.sample(lines, 1) if rng.random() < 0.3 else [lines[k]]
    put(root / MANIFEST, b"".join(lines[:k] + other + lines[k:]))


def raw(root, rng):
    """What no JSON writer writes, in place of a value."""
    lines = (root / MANIFEST).read_text().splitlines(keepends=True)
    k = rng.choice([k for k, line in enumerate(lines) if line.rstrip(",\n").endswith(tuple('0"9'))])
    name, colon, _ = lines[k].rpartition(": ")
    lines[k] = f"{name}{colon}{rng.choice(RAW)},\n"
    put(root / MANIFEST, "".join(lines).encode())


def noise(root, rng):
    name = rng.choice((MANIFEST, SIGNATURE) if (root / SIGNATURE).exists() else (MANIFEST,))
    made = (rng.randbytes(500), b"[]", b"null", b"3", b"{}", b"[" * 9000, b'"', b"\0" * 64, b"\xff")
    put(root / name, rng.choice(made))


def far_too_large(root, rng):
    """A sparse file: its size alone refuses it."""
    path = rng.choice(files(root))
    put(path, path.read_bytes())
    os.truncate(path, 1 << rng.randrange(31, 38))


# ---- the signature -----------------------------------------------------------------------------


def signature_edited(root, rng):
    fields = json.loads((root / SIGNATURE).read_text())
    key = rng.choice(sorted(fields))
    value = fields[key]
    bad = (value.upper(), value[:-2], f"{value}00", f"{value}\n", value[::-1], "", None, 1, [value])
    fields[key] = rng.choice((*bad, f"{rng.getrandbits(4 * len(value)):0{len(value)}x}"))
    if rng.random() < 0.2:
        fields[rng.choice(("note", "Signature", *TRICKS))] = rng.choice((None, value))
    put(root / SIGNATURE, canonical(fields))


def other_half(root, rng):
    """S of the signature and the group's order in sum: what lax checks take for the same."""
    order = 2**252 + 27742317777372353535851937790883648493
    fields = json.loads((root / SIGNATURE).read_text())
    both = bytes.fromhex(fields["signature"])
    more = int.from_bytes(both[32:], "little") + order * rng.randrange(1, 8)
    fields["signature"] = (both[:32] + more.to_bytes(32, "little")).hex()
    put(root / SIGNATURE, canonical(fields))


def another_signer(root, rng):
    """Whoever has no right to, but a key of their own; some change the bundle first."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    if rng.random() < 0.5:
        fields = json.loads((root / MANIFEST).read_text())
        put(root / "golden.npz", rng.randbytes(99))
        fields["artifacts"]["golden"] |= {
            "size_bytes": 99,
            "sha256": hashlib.sha256((root / "golden.npz").read_bytes()).hexdigest(),
        }
        rewrite(root, fields, True)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    put(root / SIGNATURE, made(key, (root / MANIFEST).read_bytes()))


FILES = [flipped, cut, cut_in_front, grown, overwritten, moved_within, swapped, replaced]
PLACES = [removed, renamed, added, linked, another_kind, deeper]
CHANGES = [trick, trick_in_a_name, another_value, another_number, without, with_more]
CHANGES += [artifacts_swapped, same_file, another_hash, another_schema]
TEXTS = [another_digest, another_form, doubled, raw, noise, far_too_large]
PLAIN = [*FILES, *PLACES, *TEXTS, *(Fields(change, False) for change in CHANGES)]
SIGNED = [
    *PLAIN,
    *(Fields(change, True) for change in CHANGES),
    signature_edited,
    other_half,
    another_signer,
]
EXACT = {removed, renamed, another_signer}  # a key must be asked for to see these
REASONS = (
    "not a bundle: no manifest.json",
    "where a file should be",
    "where a folder should be",
    "where a file of the bundle should be",
    "an empty folder",
    "is no name of a bundle's file",
    "at most are read",
    "not readable JSON",
    "expected a JSON object",
    "written in schema",
    "not in the form",
    "Field required",
    "Input should be",
    "Extra inputs are not permitted",
    "no artifact named",
    "nothing reads the artifact",
    "artifacts share a file",
    "digest does not fit",
    "not in the manifest",
    "is missing",
    "bytes instead of",
    "is not the manifest's",
)
REASONS_SIGNED = (
    "not signed, and a signature",
    "not a signature:",
    "not the signature of this manifest",
    "by the key",
)


def refused(good, place, damages, count, signed_by=None):
    """Damage a bundle `count` times; how often each reason was told, and each damage done."""
    reasons, done = Counter(), Counter()
    root, before = place / "bundle", [path.read_bytes() for path in files(good)]
    for k in range(count):
        rng, damage = Random(k), damages[k % len(damages)]
        lay(good, root)
        assert not damaged(good, root), k
        damage(root, rng)
        while not damaged(good, root):
            damage(root, rng)
        asked = signed_by if damage in EXACT or rng.random() < 0.5 else None
        try:
            open_bundle(root, signed_by=asked)
        except BundleError as error:
            line = error.line()
            seen = line.replace(str(root), "")
            assert "\n" not in line and line.isprintable() and len(seen) < 500, (k, line)
            assert not re.search(r"[a-z](Error|Exception)\b|Traceback|pydantic", line), (k, line)
            reasons.update(reason for reason in (*REASONS, *REASONS_SIGNED) if reason in line)
        except BaseException as error:
            raise AssertionError(f"case {k}, {damage.__name__}: {error!r}") from error
        else:
            pytest.fail(f"case {k}, {damage.__name__}: accepted")
        done[damage.__name__] += 1
    assert [path.read_bytes() for path in files(good)] == before, "the test damaged its own"
    return reasons, done


def test_four_thousand_damages_of_a_bundle(rich_bundle, tmp_path):
    assert open_bundle(rich_bundle).signer is None
    reasons, done = refused(rich_bundle, tmp_path, PLAIN, 4000)
    assert min(done.values()) >= 100 and len(done) == len(PLAIN)
    assert [reason for reason in REASONS if not reasons[reason]] == []
    assert open_bundle(rich_bundle).signer is None


def test_six_thousand_damages_of_a_signed_bundle(rich_copy, keys, tmp_path):
    keys.sign(rich_copy)
    assert open_bundle(rich_copy, signed_by=keys.public[0]).signer is not None
    reasons, done = refused(rich_copy, tmp_path, SIGNED, 6000, keys.public[0])
    assert min(done.values()) >= 100 and len(done) == len(SIGNED)
    assert [reason for reason in (*REASONS, *REASONS_SIGNED) if not reasons[reason]] == []
    assert open_bundle(rich_copy, signed_by=keys.public[0]).signer is not None


@pytest.mark.slow
def test_hundreds_of_damages_of_the_shipped_bundle(keys, tmp_path):
    good = Path(shutil.copytree(shipped_path(), tmp_path / "good"))
    keys.sign(good)
    assert open_bundle(good, signed_by=keys.public[0]).digest == open_bundle().digest
    damages = [damage for damage in SIGNED if damage is not another_signer]
    refused(good, tmp_path, damages, 10 * len(damages), keys.public[0])
