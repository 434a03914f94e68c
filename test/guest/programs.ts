import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Check, type Guest, script } from './check.ts';

/**
 * Programs with results of their own, run on the processor that the tests run on and in the guest: what they print must
 * be the same to the last bit. They are linked with musl, which does the same on every processor; glibc picks its
 * functions by what the processor offers.
 */
const SOURCES = join(dirname(fileURLToPath(import.meta.url)), 'programs');
const PROGRAMS_OF_C = ['floats', 'integers', 'mathematics', 'signals', 'threads'] as const;
const BUILDS = ['-O2', '-O3 -msse4.2'] as const;
const FLAGS = ['-static', '-std=gnu17', '-Wall', '-Wextra', '-Werror', '-Wno-unknown-pragmas'];

/** Whether there is a host to compare with. */
const comparable = arch() === 'x64' && spawnSync('musl-gcc', ['--version']).status === 0;

/** Two texts line by line. @throws Error with the first that differ */
export function sameLines(guest: string, host: string): void {
  if (guest === host) return;
  const [g, h] = [guest.split('\n'), host.split('\n')];
  const differ = h.map((line, i) => [i, line, g[i] ?? ''] as const).filter(([, a, b]) => a !== b);
  const shown = differ
    .slice(0, 6)
    .map(([i, a, b]) => `line ${i + 1}: host ${JSON.stringify(a)}, guest ${JSON.stringify(b)}`);
  throw new Error(`${differ.length} of ${h.length} lines differ: ${shown.join('; ')}`);
}

function inFolder<T>(work: (folder: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), 'programs-'));
  try {
    return work(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Builds a program, runs it here, and gives both. */
const built = (name: string, options: string): { program: Uint8Array; output: string } =>
  inFolder((folder) => {
    const program = join(folder, name);
    execFileSync('musl-gcc', [...options.split(' '), ...FLAGS, '-o', program, join(SOURCES, `${name}.c`), '-lm']);
    return { program: readFileSync(program), output: execFileSync(program, { encoding: 'utf8' }) };
  });

const compiled: readonly Check[] = BUILDS.flatMap((options) =>
  PROGRAMS_OF_C.map((name) => ({
    name: `${name}.c with ${options} prints what it prints here`,
    program: `C programs (${PROGRAMS_OF_C.join(', ')}) of GCC with ${BUILDS.join(' and ')}`,
    work: async (guest: Guest) => {
      const { program, output } = built(name, options);
      await guest.fs.writeFile('/tmp/program', program);
      sameLines(await script(guest, 'chmod +x /tmp/program; /tmp/program'), output);
    },
  })),
);

/** Bytes that are the same each time, part of them compressible. */
function testData(): Uint8Array {
  const bytes = new Uint8Array(500_007);
  let x = 0x2545f491;
  for (let i = 0; i < bytes.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = i % 100_000 < 60_000 ? x : (x & 7) + 0x30;
  }
  return bytes;
}

const COREUTILS = `
for sum in md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum 'sum -s' 'cksum -a sm3' 'b2sum -l 256'; do
  echo "$sum $($sum < data)"
done
base64 data | cksum
base32 data | cksum
od -An -tfD -N 40000 data | cksum
od -An -tfF -N 40000 data | cksum
od -An -td8 -tx4 -tu2 -to1 -N 40000 data | cksum
seq -f %.18Lg 0.1 0.37 1000 | cksum
shuf --random-source=data -i 1-20000 | tee numbers | cksum
sort -n numbers | cksum
sort -g numbers | cksum
sort --stable -k1.2,1.4 -r numbers | cksum
for n in 18446744073709551557 340282366920938463463374607431768211455 170141183460469231731687303715884105727; do factor $n; done
tr '0-7' 'a-h' < data | fold -w 71 | sort | uniq -c | sort -rn | cksum
gzip -9n < data | gzip -d | cksum`;

const OPENSSL = `
for digest in md5 sha1 sha224 sha256 sha384 sha512 sha512-256 sha3-224 sha3-512 blake2b512 blake2s256 sm3; do
  openssl dgst -$digest -r data
  openssl dgst -$digest -hmac secret -r data
done
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
for cipher in aes-128-cbc aes-192-ctr aes-256-ctr aes-256-ofb aes-128-cfb8 chacha20 camellia-256-cbc aria-128-cbc sm4-cbc; do
  size=64; case $cipher in *-128*|sm4*) size=32;; *-192*) size=48;; esac
  head -c 300000 data | openssl enc -$cipher -K \${key:0:$size} -iv f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff > sealed
  echo "$cipher $(cksum < sealed)"
  openssl enc -d -$cipher -K \${key:0:$size} -iv f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff < sealed | cksum
done
head -c 20000 data > part
openssl dgst -sha256 -sign rsa.pem part | cksum
openssl pkeyutl -sign -inkey ed25519.pem -rawin -in part | cksum
openssl dgst -sha512 -sign ec.pem -out signature part
openssl dgst -sha512 -prverify ec.pem -signature signature part
openssl prime -hex D000000000000000000000000000000000000000000000000000000000000F17
openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:word -kdfopt salt:salt -kdfopt iter:5000 PBKDF2
openssl kdf -keylen 32 -kdfopt pass:word -kdfopt salt:salt -kdfopt n:1024 -kdfopt r:8 -kdfopt p:1 SCRYPT`;

/** The same lines here and there, over the same files. */
async function alike(guest: Guest, lines: string, files: Record<string, Uint8Array>): Promise<void> {
  const prologue = 'set -e; export LC_ALL=C; ';
  const host = inFolder((folder) => {
    for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
    return execFileSync('bash', ['-c', prologue + lines], { cwd: folder, encoding: 'utf8' });
  });
  await guest.run(['mkdir', '-p', '/tmp/alike']);
  for (const [name, bytes] of Object.entries(files)) await guest.fs.writeFile(`/tmp/alike/${name}`, bytes);
  sameLines(await script(guest, `cd /tmp/alike; ${prologue}${lines}`), host);
  await guest.run(['rm', '-r', '/tmp/alike']);
}

const keys = (): Record<string, Uint8Array> => {
  const make = (...args: string[]): Uint8Array =>
    execFileSync('openssl', ['genpkey', ...args], { stdio: ['ignore', 'pipe', 'ignore'] });
  return {
    'rsa.pem': make('-algorithm', 'RSA'),
    'ed25519.pem': make('-algorithm', 'ED25519'),
    'ec.pem': make('-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'),
  };
};

const sums: readonly Check[] = [
  {
    name: "coreutils' checksums and numbers are the host's",
    program: "coreutils' checksums, sorting and printing of numbers",
    work: (guest) => alike(guest, COREUTILS, { data: testData() }),
  },
  {
    name: "OpenSSL's digests, ciphers and signatures are the host's",
    program: "OpenSSL's digests, ciphers, signatures and key derivation",
    work: (guest) => alike(guest, OPENSSL, { data: testData(), ...keys() }),
  },
];

/** Nothing where there is no such host. */
export const PROGRAMS: readonly Check[] = comparable ? [...compiled, ...sums] : [];
