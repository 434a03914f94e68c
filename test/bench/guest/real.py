#!/usr/bin/python3
"""Real programs over fixed data: times each by the clock on the wall, prints lines as bench.h says.

Work files are in memory (tmpfs): a disk would be measured otherwise.
"""
import hashlib
import os
import random
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"
# The guests' processor has none of these, so OpenSSL does without them everywhere: PCLMULQDQ, AES, XSAVE, AVX; leaf 7.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "OPENSSL_ia32cap": "~0x1e00000200000000:0",
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (
        ("NAME", "Bench"), ("EMAIL", "bench@example.org"), ("DATE", "2026-01-01T00:00:00Z"))},
}  # fmt: skip


def run(*argv, data=None):
    """What the program printed."""
    done = subprocess.run(argv, input=data, stdout=subprocess.PIPE, env=ENVIRONMENT, check=True)
    return done.stdout


def write(name, data):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def text(size, seed):
    """Text of a vocabulary in which some words are far more frequent than others."""
    dice = random.Random(seed)
    vocabulary = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(900)]
    out, length = [], 0
    while length < size:
        out.append(vocabulary[dice.randrange(900) * dice.randrange(900) // 900] + ("\n" if dice.random() < 0.1 else " "))
        length += len(out[-1])
    return "".join(out)[:size]


def c_source(lines):
    """A C file of about so many lines: tables, loops, branches, strings, floating point."""
    dice = random.Random(5)
    out = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>", "struct item { int a, b; double c; char name[16]; };"]
    number = 0
    while len(out) < lines:
        k, m, shift = dice.randrange(2, 60), dice.randrange(3, 4000), dice.randrange(1, 15)
        before = f"f{number - 1}(x >> 1, v, n)" if number else "x"
        out += [
            f"static const int table{number}[8] = {{ {', '.join(str(dice.randrange(1000)) for _ in range(8))} }};",
            f"int f{number}(int x, struct item *v, int n)",
            "{",
            f"    int sum = x * {k}, i, j;",
            f"    for (i = 0; i < n; i++) {{",
            f"        sum += v[i].a * table{number}[i & 7] ^ (v[i].b >> {shift});",
            f"        if (sum % {m} == {k}) v[i].c = v[i].c * 1.5 + sum;",
            f"        else for (j = 0; j < {k % 9 + 2}; j++) sum ^= v[i].name[j] << j;",
            "    }",
            f"    switch (sum & 7) {{",
            *(f"    case {c}: sum += {dice.randrange(9999)} * (x - {c}); break;" for c in range(5)),
            f"    default: if (sum > {m}) sum -= {before};",
            "    }",
            f"    if (strlen(v[0].name) > {k % 7}) snprintf(v[0].name, sizeof v[0].name, \"%d\", sum);",
            "    return sum;",
            "}",
        ]  # fmt: skip
        number += 1
    return "\n".join(out) + "\n"


def prepare_gcc():
    write("big.c", c_source(2000))


def gcc(_):
    run("gcc", "-O2", "-c", "big.c", "-o", "big.o")
    with open("big.o", "rb") as file:
        return file.read()


def python(_):
    return run(PYTHON, f"{HERE}/pystones.py")


SQLITE = """
import random, sqlite3
dice = random.Random(3)
db = sqlite3.connect("bench.sqlite")
db.execute("create table person (id integer primary key, name text, age integer, city text)")
for turn in range(10):
    with db:
        db.executemany("insert into person (name, age, city) values (?, ?, ?)",
            (("%x" % dice.getrandbits(60), dice.randrange(100), "city %d" % dice.randrange(300)) for _ in range(1500)))
for turn in range(200):
    with db:
        db.execute("insert into person (name, age, city) values ('one', ?, 'alone')", (turn,))
with db:
    db.execute("create index cities on person (city, age)")
    db.execute("update person set age = age + 1 where city like 'city 1%'")
print(db.execute("select count(*), sum(age) from person where city > 'city 2'").fetchone())
print(db.execute("select city, count(*) c, avg(age) from person group by city order by c desc, city limit 9").fetchall())
"""


def sqlite(_):
    for name in ("bench.sqlite", "bench.sqlite-journal"):
        if os.path.exists(name):
            os.unlink(name)
    return run(PYTHON, "-c", SQLITE)


def git(chunk):
    tree = f"tree{chunk}"
    for i in range(150):
        write(f"{tree}/part{i % 12}/file{i}.txt", text(3000, i))
    began = time.monotonic()
    here = ("git", "-C", tree, "-c", "core.fsync=none", "-c", "gc.auto=0")
    out = []
    run(*here, "init", "-q", "-b", "main")
    for turn in range(3):
        run(*here, "add", "-A")
        run(*here, "commit", "-q", "-m", f"commit {turn}")
        for i in range(turn, 150, 5):
            name = f"{tree}/part{i % 12}/file{i}.txt"
            with open(name) as file:
                words = file.read().split(" ")
            words[turn * 7 :: 40] = ["changed"] * len(words[turn * 7 :: 40])
            write(name, " ".join(words))
        out += [run(*here, "diff", "--stat"), run(*here, "diff")]
    out += [run(*here, "log", "--stat", "-p"), run(*here, "status", "--short"), run(*here, "repack", "-a", "-d", "-q")]
    out.append(run(*here, "fsck", "--full"))
    return b"".join(out), time.monotonic() - began


def prepare_data():
    write("data", text(4_000_000, 11))


def sha256(_):
    return run("openssl", "dgst", "-sha256", "-r", "data")


def aes(_):
    key = ["-K", "000102030405060708090a0b0c0d0e0f", "-iv", "0f0e0d0c0b0a09080706050403020100"]
    run("openssl", "enc", "-aes-128-cbc", *key, "-in", "data", "-out", "cipher")
    run("openssl", "enc", "-d", "-aes-128-cbc", *key, "-in", "cipher", "-out", "plain")
    with open("cipher", "rb") as cipher, open("data", "rb") as data, open("plain", "rb") as plain:
        assert data.read() == plain.read()
        return cipher.read()


def bignum(_):
    """Modular exponentiation: 2^1279 - 1 is prime. The witnesses are random, their number is not."""
    return run("openssl", "prime", "-hex", f"{2**1279 - 1:x}")


def prepare_xz():
    write("text", text(400_000, 12))


# xz itself is not in the disk; its library is, in Python.
XZ = """
import lzma
with open("text", "rb") as file: data = file.read()
packed = lzma.compress(data, preset=6)
assert lzma.decompress(packed) == data
print(len(packed))
"""


def xz(_):
    return run(PYTHON, "-c", XZ)


def gzip(_):
    packed = run("gzip", "-6", "-n", "-c", "data")
    return run("gzip", "-d", "-c", data=packed)


PERL = r"""
my (%count, $matches);
open my $in, '<', 'text' or die;
while (<$in>) {
    $count{lc $_}++ for split;
    $matches++ while /(?:th|he|in)\w*([aeiou])\b/g;
    s/(\w+) (\w+)/$2 $1/g;
    $count{length $_}++;
}
print "$matches\n", map { "$_ $count{$_}\n" } (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 40];
"""


def perl(_):
    return run("perl", "-e", PERL)


BASH = r"""
sum=0
for ((i = 0; i < 15000; i++)); do ((sum = (sum * 31 + i) % 65521)); done
for i in {1..25}; do
    name=$(printf 'n%03d' $i | tr n m)
    echo "${name//0/zero}" | sed 's/m/file /' >> list
done
sort -r list | head -n 5; wc -l < list; rm list; ls -d /usr/bin/g* | head -n 3 | wc -l; echo $sum
"""


def bash(_):
    return run("bash", "-c", BASH)


BENCHES = {
    "real_python": (3, None, python),
    "real_gcc": (1, prepare_gcc, gcc),
    "real_sqlite": (3, None, sqlite),
    "real_git": (1, None, git),
    "real_sha256": (3, prepare_data, sha256),
    "real_aes": (3, prepare_data, aes),
    "real_bignum": (3, None, bignum),
    "real_xz": (2, prepare_xz, xz),
    "real_gzip": (2, prepare_data, gzip),
    "real_perl": (3, prepare_xz, perl),
    "real_bash": (3, None, bash),
}


def measure(name):
    chunks, prepare, bench = BENCHES[name]
    if prepare:
        prepare()
    times, checksum = [], hashlib.sha256()
    for chunk in range(chunks):
        began = time.monotonic()
        result = bench(chunk)
        took = time.monotonic() - began
        # One that has preparations of its own in each chunk tells what the rest took.
        result, took = result if isinstance(result, tuple) else (result, took)
        times.append(took)
        checksum.update(result)
    print(f"BENCH {name} {chunks} {sum(times):.6f} {min(times) * chunks:.6f} {checksum.hexdigest()[:8]}", flush=True)


if __name__ == "__main__":
    work = "/tmp/bench-real"
    os.makedirs(work, exist_ok=True)
    if not os.environ.get("BENCH_IN_MEMORY"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", work], check=True)
    try:
        os.chdir(work)
        for wanted in sys.argv[1:] or BENCHES:
            measure(wanted)
    finally:
        os.chdir("/")
        if not os.environ.get("BENCH_IN_MEMORY"):
            subprocess.run(["umount", work], check=True)
