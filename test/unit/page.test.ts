import { describe, expect, test } from 'vitest';
import { explainFailure } from '../../components/failures.ts';
import { bytesText, percentText } from '../../components/format.ts';
import { encodeKey, encodeText } from '../../components/keys.ts';
import { join, normalise } from '../../components/upload.ts';
import { DEFAULTS, SettingsStore } from '../../src/settings.ts';
import { fromBase64url, inflate, makeLink, packDirectory, parseLink, unpackInto } from '../../src/share.ts';
import type { LinuxVM } from '../../src/vm.ts';

const PAGE = 'https://example.org/vm/?disk=old#run=old';
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

describe('addresses', () => {
  test('say everything again that they were made of, and nothing of the page’s own', () => {
    const link = {
      disk: 'disks/a b/manifest.json',
      memory: '1024',
      theme: 'dark',
      run: 'echo "a & b" #1\nls ü',
      directory: '/root/w',
      files: new Uint8Array([0, 250, 251, 252, 253, 254, 255]),
    };
    const address = makeLink(PAGE, link);
    expect(address).not.toContain('old');
    expect(parseLink(address)).toMatchObject(link);
    // What is to be done, no server sees.
    expect(new URL(address).search).not.toMatch(/echo|root/);
  });

  test('hide nothing of a command: controls and turns of direction are taken out', () => {
    const address = `${PAGE.split('?')[0]}#run=${encodeURIComponent('ls\x1b[2J\u202e \u200bx\r\x7f')}`;
    expect(parseLink(address).run).toBe('ls[2J x');
    expect(parseLink('https://example.org/#files=$$$').files).toBeUndefined();
    expect(fromBase64url('AP-_')).toEqual(new Uint8Array([0, 255, 191]));
  });

  test('carry the files of a directory there and back', async () => {
    const archive = new TextEncoder().encode('tar '.repeat(1000));
    let unpacked: Uint8Array | undefined;
    const calls: string[] = [];
    const vm = {
      run: async (argv: string[], options: { stdin?: Uint8Array }) => {
        calls.push(argv.join(' '));
        unpacked = options.stdin;
        return { status: 0, stdout: archive, stderr: new Uint8Array(0) };
      },
      fs: { mkdir: async (path: string) => void calls.push(`mkdir ${path}`) },
    } as unknown as LinuxVM;
    const packed = await packDirectory(vm, '/root');
    expect(packed.length).toBeLessThan(200);
    await unpackInto(vm, '/root/there', packed);
    expect(unpacked).toEqual(archive);
    expect(calls.slice(1)).toEqual(['mkdir /root/there', 'tar -C /root/there --no-same-owner -xf -']);
  });

  test('refuse what is too much, both ways, in words', async () => {
    const noise = crypto.getRandomValues(new Uint8Array(60_000));
    const vm = { run: async () => ({ status: 0, stdout: noise, stderr: noise }) } as unknown as LinuxVM;
    await expect(packDirectory(vm, '/root')).rejects.toThrow(/59 KiB when packed, and an address holds 48/);
    const failing = {
      run: async () => ({ status: 2, stdout: noise, stderr: new TextEncoder().encode('tar: /x: Cannot open\n') }),
    } as unknown as LinuxVM;
    await expect(packDirectory(failing, '/x')).rejects.toThrow('tar: /x: Cannot open');
    const bomb = new Blob([new Uint8Array(3 << 20)]).stream().pipeThrough(new CompressionStream('deflate-raw'));
    const packed = new Uint8Array(await new Response(bomb).arrayBuffer());
    await expect(inflate(packed, 1 << 20)).rejects.toThrow('more than 1 MiB');
    await expect(inflate(packed.subarray(0, 100), 1 << 30)).rejects.toThrow('damaged');
  });
});

describe('settings', () => {
  const storage = (initial: string | null) => ({
    text: initial,
    getItem() {
      return this.text;
    },
    setItem(_name: string, value: string) {
      this.text = value;
    },
  });

  test('are kept, and what makes no sense is as delivered', () => {
    const kept = storage('{"memory":1e9,"theme":"pink","fontSize":18,"copyPaste":"yes","fontFamily":7}');
    const store = new SettingsStore(kept);
    expect(store.value).toEqual({ ...DEFAULTS, fontSize: 18 });
    let changes = 0;
    store.addEventListener('change', () => changes++);
    store.update({ memory: 256 });
    expect(new SettingsStore(kept).value.memory).toBe(256);
    expect(changes).toBe(1);
    expect(new SettingsStore(storage('nonsense')).value).toEqual(DEFAULTS);
  });

  test('an address overrides them until the visitor chooses, and is not kept', () => {
    const kept = storage(null);
    const store = new SettingsStore(kept);
    store.override({ theme: 'dark' });
    store.update({ fontSize: 20 });
    expect([store.value.theme, new SettingsStore(kept).value.theme]).toEqual(['dark', 'auto']);
    store.update({ theme: 'light' });
    expect(store.value.theme).toBe('light');
  });

  test('work without storage', () => {
    const denied = {
      getItem: () => {
        throw new Error('denied');
      },
      setItem: () => undefined,
    };
    const store = new SettingsStore(denied);
    store.update({ memory: 256 });
    expect([store.lasting, store.value.memory]).toEqual([false, 256]);
  });
});

describe('failures in words', () => {
  const coded = (code: string, message = 'what happened') => Object.assign(new Error(message), { code });

  test.each([
    [coded('range-ignored'), /in parts/, /Range requests/],
    [coded('hash'), /damaged/, /cached data/],
    [coded('network'), /No connection/, /try again/],
    [coded('storage-full'), /no room/, /delete snapshots/],
    [new RangeError('Array buffer allocation failed'), /memory/, /less than its 512 MiB/],
    [new Error('WebAssembly.Memory(): could not allocate memory'), /memory/, /Close other tabs/],
    [new Error('this machine was saved in format 7; only 1 is known here'), /another build/, /from its disk/],
    [new Error('the saved machine has format 3, this program reads format 4: …'), /another build/, /from its disk/],
    [new Error('the saved machine is damaged or cut short; save it again'), /cannot be used/, /from its disk/],
    [new Error('something else'), /could not be started/, /try again/],
  ])('%s', (error, title, next) => {
    const explanation = explainFailure(error, { memory: 512 });
    expect(explanation.text).toBe(error.message);
    expect(explanation.title).toMatch(title);
    expect(explanation.next).toMatch(next);
  });

  test('a machine that ran is told from one that did not start', () => {
    expect(explainFailure(new Error('x'), { began: true }).title).toBe('The machine failed');
  });

  test('a browser that cannot is told which ones can', () => {
    const { validate } = WebAssembly;
    try {
      WebAssembly.validate = () => false;
      const { title, text } = explainFailure(new Error('whatever'));
      expect(title).toBe('This browser cannot run the machine');
      expect(text).toMatch(/Chrome or Edge 112, Firefox 121, Safari 18.2/);
    } finally {
      WebAssembly.validate = validate;
    }
  });
});

describe('keys, paths and figures', () => {
  test('keys as terminals send them', () => {
    const none = { ctrl: false, alt: false };
    expect(encodeKey('ArrowUp', none, false)).toBe('\x1b[A');
    expect(encodeKey('ArrowUp', none, true)).toBe('\x1bOA');
    expect(encodeKey('ArrowLeft', { ctrl: true, alt: true }, true)).toBe('\x1b[1;7D');
    expect(encodeKey('Tab', { ctrl: false, alt: true }, false)).toBe('\x1b\t');
    expect(text(encodeText('c', { ctrl: true, alt: false }))).toBe('\x03');
    expect(text(encodeText(' ', { ctrl: true, alt: true }))).toBe('\x1b\0');
    expect(text(encodeText('ü', { ctrl: true, alt: false }))).toBe('ü');
  });

  test('paths', () => {
    expect([join('/', 'a'), join('/a', 'b')]).toEqual(['/a', '/a/b']);
    expect([normalise('/a//b/./../c/'), normalise('../..'), normalise('x')]).toEqual(['/a/c', '/', '/x']);
  });

  test('figures', () => {
    expect([0, 999, 1000, 9949, 999_600, 1.5e9].map(bytesText)).toEqual([
      '0 B',
      '999 B',
      '1.0 kB',
      '9.9 kB',
      '1.0 MB',
      '1.5 GB',
    ]);
    expect([percentText(1, 0), percentText(999_999, 1_000_000), percentText(1, 1), percentText(1, 3)]).toEqual([
      '–',
      '99.9 %',
      '100 %',
      '33 %',
    ]);
  });
});
