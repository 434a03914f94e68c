// usage: tsx wide.ts TIER PROGRAM   (cwd = tree)
import { pathToFileURL } from 'node:url';
const root = process.env.ROOT ?? process.cwd();
const { LinuxVM } = await import(pathToFileURL(root + '/src/node.ts').href);
const tier = process.argv[2] ?? 'interp';
const what = process.argv[3] ?? 'gcc';
const disk = pathToFileURL(root + '/build/disks/debian-dev/manifest.json');
const vm = await LinuxVM.start({ disk, memory: 512, tier });
const enc = new TextEncoder();
const lines: string[] = ['#include <stdio.h>','#include <stdlib.h>','#include <string.h>','struct item { int a, b; double c; char name[16]; };'];
let seed = 5; const rnd = (a: number, b: number) => a + ((seed = (seed * 1103515245 + 12345) & 0x7fffffff) >> 8) % (b - a);
for (let n = 0; lines.length < 150; n++) {
  const k = rnd(2,60), m = rnd(3,4000), sh = rnd(1,15);
  lines.push(`int f${n}(int x, struct item *v, int n)`,'{',`    int sum = x * ${k}, i, j;`,'    for (i = 0; i < n; i++) {',`        sum += v[i].a * ${m} ^ (v[i].b >> ${sh});`,`        if (sum % ${m} == ${k}) v[i].c = v[i].c * 1.5 + sum;`,`        else for (j = 0; j < ${k%9+2}; j++) sum ^= v[i].name[j] << j;`,'    }','    switch (sum & 7) {',`    case 0: sum += ${rnd(1,9999)} * (x - 1); break;`,`    case 3: sum += ${rnd(1,9999)} * (x - 3); break;`,`    default: if (sum > ${m}) sum -= ${n ? `f${n-1}(x >> 1, v, n)` : 'x'};`,'    }',`    if (strlen(v[0].name) > ${k%7}) snprintf(v[0].name, sizeof v[0].name, "%d", sum);`,'    return sum;','}');
}
await vm.fs.writeFile('/tmp/a.c', enc.encode(lines.join('\n') + '\n'));
const cmds: Record<string, string[]> = {
  gcc: ['gcc', '-O2', '-c', '/tmp/a.c', '-o', '/tmp/a.o'],
  python: ['python3', '-c', 'import json,decimal,argparse,asyncio,unittest,sqlite3'],
  perl: ['perl', '-e', 'my %h; for my $i (1..60000) { $h{$i % 977} .= chr(65+$i%26); } my $s=0; for (sort keys %h) { $s += length $h{$_}; s/A/B/g; } print "$s\n"'],
  sqlite: ['python3', '-c', 'import sqlite3\ndb=sqlite3.connect(":memory:")\ndb.execute("create table p(id integer primary key,n text,a int)")\nwith db: db.executemany("insert into p(n,a) values(?,?)",(("n%d"%(i*7919%10007),i%97) for i in range(6000)))\ndb.execute("create index x on p(n,a)")\nprint(db.execute("select a,count(*),min(n) from p group by a order by 2 desc limit 5").fetchall())'],
  fork: ['sh', '-c', 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do /bin/true; ls / >/dev/null; done'],
};
const one = async (c: string[]) => {
  const a = await vm.stats();
  const u = process.cpuUsage(); const t = performance.now();
  const r = await vm.run(c);
  const cpu = process.cpuUsage(u);
  const b = await vm.stats();
  if (r.status) console.log(new TextDecoder().decode(r.stderr));
  const n = (b.processor.instructions - a.processor.instructions) / 1e6;
  const interp = (b.processor.interpreted - a.processor.interpreted) / 1e6;
  const s = (cpu.user + cpu.system) / 1e6;
  return `${n.toFixed(0)}M ${s.toFixed(2)}s cpu ${(s * 1000 / n).toFixed(2)} ns/insn wall ${((performance.now() - t)/1000).toFixed(2)} interp ${(100*interp/n).toFixed(0)}% regions ${b.processor.regions - a.processor.regions}`;
};
for (const w of what.split(",")) { console.log(w, "cold", await one(cmds[w]!)); if (!process.env.COLD) console.log(w, "again", await one(cmds[w]!)); }
await vm.stop();
process.exit(0);
