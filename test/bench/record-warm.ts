/**
 * `npx tsx test/bench/record-warm.ts`: boots the `debian-dev` disk in the interpreter, runs programs, and writes the
 * instruction shapes that were decoded to emulator/cpu/warm.ts, and the runs of instructions that save most dispatches to
 * emulator/cpu/runs.ts. `npx tsx test/bench/record-warm.ts order` runs the same and puts both in the order of how often the interpreter
 * goes to their handlers: what is used together then lies together in the host's tables and caches. Run both when
 * definitions, shapes or the disk change much.
 *
 * Runs are found by how often each block runs. Pairs of neighbours are merged, the most frequent one first, each workload weighing the same, until there are enough
 * (as byte-pair encoding does for text): each merged run is one that the interpreter gets a handler for.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PROMPT } from '../../disks/qemu.ts';
import type { Block } from '../../emulator/cpu/block.ts';
import { FAR, joins, shapeKey } from '../../emulator/cpu/interp.ts';
import { Mode, RAM_BASE } from '../../emulator/cpu/layout.ts';
import { createProcessor, type X86Processor } from '../../emulator/cpu/processor.ts';
import { metaAddress, R } from '../../emulator/cpu/record.ts';
import { RUNS } from '../../emulator/cpu/runs.ts';
import { findDeadFlags, Template } from '../../emulator/cpu/templates.ts';
import { WARM } from '../../emulator/cpu/warm.ts';
import { plan } from '../../emulator/cpu/warm-handlers.ts';
import { openDisk } from '../../emulator/disk/open.ts';
import { Machine } from '../../emulator/machine.ts';
import { fileFetch } from '../../src/cli/file-fetch.ts';

const DISK = 'build/disks/debian-dev';
const WARM_FILE = 'emulator/cpu/warm.ts';
const RUNS_FILE = 'emulator/cpu/runs.ts';
/** Runs to find, and most instructions of one. */
const COUNT = 1600;
const LONGEST = 6;

const SOURCE = `o = ["#include <stdio.h>", "#include <string.h>", "struct item { int a, b; double c; char name[16]; };"]
for n in range(5):
    o += ["int f%d(int x, struct item *v, int n) {" % n, "int sum = x * %d, i, j;" % (n * 7 + 3),
        "for (i = 0; i < n; i++) { sum += v[i].a * %d ^ (v[i].b >> %d);" % (n * 31 + 5, n % 9 + 1),
        "if (sum %% %d == %d) v[i].c = v[i].c * 1.5 + sum; else for (j = 0; j < %d; j++) sum ^= v[i].name[j] << j; }"
        % (n * 5 + 7, n, n % 9 + 2),
        "switch (sum & 7) { case 0: sum += %d * (x - 1); break; case 3: sum += %d; break; default: if (sum > %d) sum -= x; }"
        % (n * 13, n * 17, n * 19), "if (strlen(v[0].name) > %d) snprintf(v[0].name, 16, \\"%%d\\", sum); return sum; }" % (n % 7)]
open("/tmp/a.c", "w").write("\\n".join(o))`;
const SQLITE = `import sqlite3
db = sqlite3.connect(":memory:")
db.execute("create table p(id integer primary key, n text, a int)")
db.executemany("insert into p(n, a) values(?, ?)", (("n%d" % (i * 7919 % 10007), i % 97) for i in range(4000)))
db.execute("create index x on p(n, a)")
print(db.execute("select a, count(*), min(n) from p group by a order by 2 desc limit 5").fetchall())`;
const COMMANDS = [
  `python3 -c '${SOURCE}'; gcc -O2 -c /tmp/a.c -o /tmp/a.o`,
  `python3 -c 'import json, decimal, argparse, asyncio, unittest'`,
  `python3 -c '${SQLITE}'`,
  `perl -e 'my %h; for my $i (1..30000) { $h{$i % 977} .= chr(65 + $i % 26); } my $s = 0; for (sort keys %h) { $s += length $h{$_}; s/A/B/g; } print "$s\\n"'`,
  `cd /tmp; git init -q g; cd g; for i in 1 2 3 4 5 6 7 8; do seq $i 900 > f$i; done; git add .; git -c user.name=a -c user.email=b commit -qm x; git log -p | wc; cd`,
  'apt list --installed 2>/dev/null | tail -3; ls -la /usr/bin | sort | tail -2; ps aux | tail -2; ip addr; df -h; date',
  `python3 -c 'import hashlib, re, random, email; print(2**100, random.random() ** .5)'; gzip -9 < /bin/bash | xz | sha256sum`,
  `for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; ls / >/dev/null; x=$(echo a | tr a b); done`,
];

/** The steps of a stretch of code between instructions that join none, and how much they weigh. */
interface Stretch {
  steps: number[];
  weight: number;
}

/** Steps and the runs made of them, by number. */
const texts: string[] = [];
const lengths: number[] = [];
const numbers = new Map<number, number>();
const stretches: Stretch[] = [];

let cpu: X86Processor | undefined;
let screen = '';
const kernel = new Uint8Array(readFileSync(join(DISK, 'vmlinux')));
const { cmdline } = JSON.parse(readFileSync(join(DISK, 'manifest.json'), 'utf8')) as { cmdline: string };
const disk = await openDisk(pathToFileURL(join(DISK, 'manifest.json')).href, { policy: { fetch: fileFetch } });
const machine = await Machine.create({
  createProcessor: (...args) => {
    cpu = createProcessor(...args) as X86Processor;
    cpu.code.handlers.recorded = new Set();
    return cpu;
  },
  memory: 512 * 2 ** 20,
  kernel,
  initrd: new Uint8Array(readFileSync(join(DISK, 'initramfs.gz'))),
  cmdline,
  disks: [disk.device],
  tier: 'interp',
  deterministic: true,
  events: { console: (bytes) => (screen += new TextDecoder().decode(bytes)) },
});
const { code, u8, i32 } = cpu!;
const inner = code as unknown as {
  pages: Map<number, { blocks: Map<number, Block> }>;
};

/** How often each block has run: its counter goes down from `heat`. */
function runs(): Map<Block, number> {
  const all = new Map<Block, number>();
  for (const { blocks } of inner.pages.values())
    for (const block of blocks.values())
      if (block.heated && block.page.mode <= Mode.User64)
        all.set(block, code.heat(block.page.mode) - i32[(block.last + R.AUX) >> 2]!);
  return all;
}

function stretchesOf(block: Block): number[][] {
  const out: number[][] = [[]];
  const { insns, page } = block;
  const dead = new Uint8Array(insns.length);
  const templates = insns.map((insn) => new Template(insn));
  findDeadFlags(
    templates,
    Int32Array.from(insns, (insn) => insn.imm),
    insns.length,
    dead,
  );
  const near = block.target !== undefined && block.target >= 0 && block.target < 4096;
  let at = RAM_BASE + page.physical + block.offset;
  insns.forEach((insn, k) => {
    const relative = insn.operands.some((o) => o.kind === 'rel');
    const branch = relative ? { takenNear: near, nextNear: block.end < 4096 } : FAR;
    if (joins(insn)) {
      const key = shapeKey(insn, dead[k] === 1, branch);
      let n = numbers.get(key);
      if (n === undefined) {
        numbers.set(key, (n = texts.length));
        const letter = 'abcdefgh'[(dead[k] ? 1 : 0) + (branch.takenNear ? 2 : 0) + (branch.nextNear ? 4 : 0)]!;
        texts.push(Buffer.from(u8.subarray(at, at + insn.len)).toString('hex') + letter);
        lengths.push(1);
      }
      out.at(-1)!.push(n);
    } else out.push([]);
    at += insn.len;
  });
  block.release();
  return out.filter((steps) => steps.length > 1);
}

/** Adds what has run since `before`, so that all of it weighs 1. */
function weigh(before: ReadonlyMap<Block, number>): Map<Block, number> {
  const now = runs();
  const grown = [...now].map(([block, count]) => [block, count - (before.get(block) ?? 0)] as const);
  const some = grown.filter(([block, count]) => count > 0 && !block.crosses && !block.raises);
  const sum = some.reduce((all, [block, count]) => all + count * block.count, 0);
  for (const [block, count] of some) {
    countDispatches(block, count / sum);
    for (const steps of stretchesOf(block)) stretches.push({ steps, weight: count / sum });
  }
  return now;
}

/** The sample that a table slot's handler is made from. */
const samples = new Map<number, string>();
plan((slot, sample) => samples.set(slot, sample));
/** How often the interpreter goes to the handlers of samples. */
const dispatches = new Map<string, number>();

function countDispatches(block: Block, weight: number): void {
  let covered = 0;
  for (let at = block.record; at <= block.last; at += 4) {
    if (!i32[metaAddress(at) >> 2] || covered-- > 0) continue;
    const sample = samples.get(u8[at]! + u8[at + 1]! * 256);
    if (sample === undefined) continue;
    dispatches.set(sample, (dispatches.get(sample) ?? 0) + weight);
    covered = sample.split('_').length - 1;
  }
}

machine.start();
const prompt = async (): Promise<void> => {
  while (!PROMPT.test(screen)) await new Promise((resolve) => setTimeout(resolve, 100));
  screen = '';
};
await prompt();
let before = weigh(new Map());
for (const command of COMMANDS) {
  await machine.writeConsole(new TextEncoder().encode(`${command}; echo; echo DO''NE\n`));
  while (!screen.includes('DONE')) await new Promise((resolve) => setTimeout(resolve, 100));
  await prompt();
  before = weigh(before);
}
machine.stop();

if (process.argv[2] === 'order') {
  const often = (sample: string): number => dispatches.get(sample) ?? 0;
  for (const [file, text] of [
    [WARM_FILE, WARM],
    [RUNS_FILE, RUNS],
  ] as const)
    write(
      file,
      text.match(/\S+/g)!.sort((a, b) => often(b) - often(a) || (a < b ? -1 : 1)),
    );
  process.exit();
}

const pairs = new Map<number, number>();
const places = new Map<number, Set<Stretch>>();
const pairOf = (a: number, b: number): number => a * 0x10000 + b;
function count(stretch: Stretch, sign: 1 | -1): void {
  const { steps, weight } = stretch;
  for (let k = 1; k < steps.length; k++) {
    if (lengths[steps[k - 1]!]! + lengths[steps[k]!]! > LONGEST) continue;
    const pair = pairOf(steps[k - 1]!, steps[k]!);
    pairs.set(pair, (pairs.get(pair) ?? 0) + sign * weight);
    if (sign < 0) continue;
    const known = places.get(pair);
    if (known) known.add(stretch);
    else places.set(pair, new Set([stretch]));
  }
}
for (const stretch of stretches) count(stretch, 1);
const found: string[] = [];
while (found.length < COUNT) {
  const [best] = [...pairs].reduce((most, pair) => (pair[1] > most[1] ? pair : most));
  const [a, b] = [Math.floor(best / 0x10000), best % 0x10000];
  const merged = texts.push(`${texts[a]}_${texts[b]}`) - 1;
  lengths.push(lengths[a]! + lengths[b]!);
  found.push(texts[merged]!);
  for (const stretch of places.get(best)!) {
    count(stretch, -1);
    const { steps } = stretch;
    const shorter: number[] = [];
    for (let k = 0; k < steps.length; k++)
      if (steps[k] === a && steps[k + 1] === b) {
        shorter.push(merged);
        k++;
      } else shorter.push(steps[k]!);
    stretch.steps = shorter;
    count(stretch, 1);
  }
  pairs.delete(best);
}

/** Writes samples, in lines, as the text of the constant that a file has. */
function write(file: string, samples: Iterable<string>): void {
  const lines: string[] = [];
  let line = '';
  for (const sample of samples) {
    if (line.length + sample.length > 112) {
      lines.push(line.trim());
      line = '';
    }
    line += ` ${sample}`;
  }
  lines.push(line.trim());
  const [head] = /^[^]*?export const \w+ = /.exec(readFileSync(file, 'utf8'))!;
  writeFileSync(file, `${head}\`\n${lines.join('\n')}\`;\n`);
}
write(WARM_FILE, [...code.handlers.recorded!].sort());
write(RUNS_FILE, found);
process.exit();
