/**
 * Address translation: the page walk, the TLB tables that emitted code reads, and guest memory access for TypeScript.
 *
 * A TLB table is indexed by bits 12 to 31 of the linear address and holds (linear page XOR host page). Emitted code
 * computes x = entry XOR address; when the upper half of x and its low 12 bits say "same page, and the access ends
 * within it", the low half of x is the host address. One load, one XOR, one AND, one compare.
 *
 * An unused entry has an upper half that no canonical address has, and a lower half that leads to a dummy page, so that
 * even an access to exactly that non-canonical address reaches nothing.
 */
import { CR0_PG, CR0_WP, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PSE, EFER_LMA, EFER_NXE } from './bits.ts';
import type { Bus, Width } from '../bus.ts';
import { ABSENT, type Cpu } from './cpu.ts';
import { DevicePages } from './device-pages.ts';
import { KeptSpaces, type Kept } from './pcid.ts';
import {
  DUMMY_PAGE,
  RAM_BASE,
  S,
  TLB_BYTES,
  TLB_ENTRIES,
  TLB_KERNEL_READ,
  TLB_KERNEL_WRITE,
  TLB_MASK,
  TLB_USER_READ,
  TLB_USER_WRITE,
} from './layout.ts';

/** Upper half of unused entries: not canonical, so no valid linear address matches. */
const UNUSED_HIGH = 0x5eed_1e55 | 0;

/** Page-fault error code bits (SDM vol. 3, 4.7). */
export const PfError = { P: 1, W: 2, U: 4, RSVD: 8, I: 16 } as const;

/** In `GuestMemory.touched`: there may be entries in the TLB by which the page is written. */
const MAPPED = 2;

/** Where the entries for spans of 1 GiB begin in `Mmu.large`. */
const HUGE = 2048;
/** Values of `Mmu.large`: translations came from a large page at one address, or at several that differ in their upper halves. */
const ONE = 1;
const SEVERAL = 2;

export type Access = 'read' | 'write' | 'fetch';

/** What `Mmu.find` returns for a page fault. */
export const FAULTED = -1;

/** Filled entries are listed so that a flush touches only those. */
class FilledList {
  readonly entries = new Int32Array(1 << 16);
  count = 0;
}

export class Mmu {
  private readonly u32: Uint32Array;
  private readonly u8: Uint8Array;
  private readonly view: DataView;
  /** Indices (table address / 4) of filled entries: not global, and global. */
  private readonly local = new FilledList();
  private readonly globals = new FilledList();
  /** Which translations came from large pages: by bits 21 to 31 of the linear address, then by bits 30 and 31 for 1 GiB. */
  private readonly large = new Uint8Array(HUGE + 4);
  /** The upper half of the address for `ONE`. */
  private readonly largeHigh = new Int32Array(HUGE + 4);
  /** Whether the page of the last successful `translate` is global. */
  global = false;
  fills = 0;
  /** Set while a debug register watches data: then no entry is filled, and every access comes here. */
  watching = false;
  /** The last bounced write: linear address, size. */
  private bounceLow = 0;
  private bounceHigh = 0;
  private bounceSize = 0;

  constructor(
    private readonly cpu: Cpu,
    private readonly bus: Bus,
    private readonly ramSize: number,
  ) {
    const buffer = cpu.wasmMemory.buffer;
    this.u32 = new Uint32Array(buffer);
    this.u8 = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    cpu.u64[(cpu.state + S.TLB_MASK) >> 3] = TLB_MASK;
    const { u32 } = this;
    for (let i = 0, at = TLB_KERNEL_READ >>> 2; i < TLB_ENTRIES; i++, at += 2) {
      u32[at] = (i << 12) ^ DUMMY_PAGE;
      u32[at + 1] = UNUSED_HIGH;
    }
    // The same for all: copied, that is a matter of milliseconds.
    for (const table of [TLB_KERNEL_WRITE, TLB_USER_READ, TLB_USER_WRITE])
      this.u8.copyWithin(table, TLB_KERNEL_READ, TLB_KERNEL_READ + TLB_BYTES);
  }

  // ---- TLB ----

  private drop(list: FilledList): void {
    const { entries, count } = list;
    for (let i = 0; i < count; i++) this.forgetEntry(entries[i]!);
    list.count = 0;
  }

  private readonly devices = new DevicePages();
  private readonly kept = new KeptSpaces();
  /** PCID of the current address space; 0 where CR4.PCIDE is 0. */
  private pcid = 0;

  /**
   * MOV to CR3 with CR4.PCIDE = 1: the translations of address space `pcid` take the place of the current ones, which are
   * kept until it comes back. `keep`: those that `pcid` left behind still count (bit 63 of the source).
   */
  switchSpace(pcid: number, keep: boolean): void {
    if (pcid === this.pcid) {
      if (!keep) this.flush(false);
      return;
    }
    this.devices.forget();
    const old = this.kept.take(this.pcid);
    const { u32 } = this;
    const { entries, count } = this.local;
    const words = old.reserve(3 * count);
    const most = words.length - 3;
    let length = 0;
    for (let i = 0; i < count; i++) {
      const at = entries[i]!;
      const high = u32[at + 1]!;
      if (high === UNUSED_HIGH >>> 0) continue;
      // An entry may have been taken over by a global page since: those of the upper half, which mostly are, are not kept.
      if (high < 0x8000_0000 && length <= most) {
        words[length] = at;
        words[length + 1] = u32[at]!;
        words[length + 2] = high;
        length += 3;
      }
      this.forgetEntry(at);
    }
    old.length = length;
    this.local.count = 0;
    const from = this.pcid;
    this.pcid = pcid;
    if (keep) this.bringBack(this.kept.find(pcid));
    this.kept.forget(pcid);
    this.cpu.spaceChanged(from, pcid, keep);
  }

  private bringBack(kept: Kept | undefined): void {
    if (!kept) return;
    const { words, length } = kept;
    const { entries } = this.local;
    for (let i = 0; i < length; i += 3) {
      const at = words[i]!;
      const table = at << 2;
      const writes = table >= TLB_USER_READ ? table >= TLB_USER_WRITE : table >= TLB_KERNEL_WRITE;
      if (writes) {
        // The page may have come to hold translated code since.
        const host = (words[i + 1]! ^ (((at >> 1) & (TLB_ENTRIES - 1)) << 12)) >>> 0;
        if (this.cpu.hasCode(host - RAM_BASE)) continue;
      }
      this.u32[at] = words[i + 1]!;
      this.u32[at + 1] = words[i + 2]!;
      entries[this.local.count++] = at;
    }
  }

  private forgetEntry(at: number): void {
    this.u32[at] = (((at >> 1) & (TLB_ENTRIES - 1)) << 12) ^ DUMMY_PAGE;
    this.u32[at + 1] = UNUSED_HIGH;
  }

  /** Forgets translations; those of global pages, and of all address spaces, only if `globals`. */
  flush(globals: boolean): void {
    this.devices.forget();
    this.drop(this.local);
    if (globals) {
      this.kept.forgetAll();
      this.pcid = this.cpu.cr4 & CR4_PCIDE ? this.cpu.cr3Low & 0xfff : 0;
      this.drop(this.globals);
      this.large.fill(0);
    }
    this.cpu.translationsChanged(globals);
  }

  /** There are global pages in the lower half, where PCIDs' own are. */
  private lowGlobals = false;

  /** INVLPG: forgets one page in all tables, also where it is a large one of which many 4 KiB are known. */
  flushPage(lo: number, hi: number): void {
    this.devices.forget();
    // INVLPG concerns the current PCID, but global pages in all of them.
    if (this.lowGlobals) this.kept.forgetAll();
    if (this.fromLarge(HUGE + (lo >>> 30), hi)) {
      this.flush(true);
      return;
    }
    if (this.fromLarge(lo >>> 21, hi)) {
      // A page of 4 MiB (32-bit paging) is both of its halves.
      const size = this.cpu.longMode ? 0x20_0000 : 0x40_0000;
      const first = (lo >>> 0) - ((lo >>> 0) % size);
      for (let page = first; page < first + size; page += 4096) this.forget(page);
      this.cpu.translationsChanged(true);
      return;
    }
    this.forget(lo);
    this.cpu.translationChanged(lo, hi);
  }

  private forget(lo: number): void {
    const index = (lo >>> 12) << 1;
    for (const table of [TLB_KERNEL_READ, TLB_KERNEL_WRITE, TLB_USER_READ, TLB_USER_WRITE]) {
      const at = (table >>> 2) + index;
      this.u32[at] = ((lo >>> 12) << 12) ^ DUMMY_PAGE;
      this.u32[at + 1] = UNUSED_HIGH;
    }
  }

  /** Notes that a translation comes from a large page. @param span index in `large` */
  private noteLarge(span: number, hi: number): void {
    if (this.large[span] === 0) {
      this.large[span] = ONE;
      this.largeHigh[span] = hi;
    } else if (this.largeHigh[span] !== hi) this.large[span] = SEVERAL;
  }

  private fromLarge(span: number, hi: number): boolean {
    const known = this.large[span]!;
    return known !== 0 && (known === SEVERAL || this.largeHigh[span] === hi);
  }

  /** Drops the write entries that lead to a physical page, so that the next write is seen (translated code is there now). */
  protectPhysical(page: number): void {
    if (!(this.cpu.memory.touched[page >>> 12]! & MAPPED)) return;
    const host = (RAM_BASE + page) >>> 0;
    for (const list of [this.local, this.globals])
      for (let i = 0; i < list.count; i++) {
        const at = list.entries[i]!;
        const table = at << 2;
        if (table >= TLB_USER_READ ? table < TLB_USER_WRITE : table < TLB_KERNEL_WRITE) continue;
        const index = (at >> 1) & (TLB_ENTRIES - 1);
        if (this.u32[at + 1] !== UNUSED_HIGH >>> 0 && (this.u32[at]! ^ (index << 12)) >>> 0 === host) {
          this.u32[at] = (index << 12) ^ DUMMY_PAGE;
          this.u32[at + 1] = UNUSED_HIGH;
        }
      }
  }

  private fill(table: number, lo: number, hi: number, page: number, global: boolean): void {
    const at = (table >>> 2) + ((lo >>> 12) << 1);
    const answer = ((lo & 0xfffff000) ^ (RAM_BASE + page)) >>> 0;
    // It is there, and listed, where a page is read that takes its writes one by one.
    if (this.u32[at] === answer && (this.u32[at + 1]! | 0) === hi) return;
    this.u32[at] = answer;
    this.u32[at + 1] = hi;
    const list = global ? this.globals : this.local;
    if (global && hi >= 0) this.lowGlobals = true;
    if (list.count === list.entries.length) {
      // Rare: forget everything else and start the lists again with this entry.
      this.drop(this.local);
      this.drop(this.globals);
      this.u32[at] = answer;
      this.u32[at + 1] = hi;
    }
    list.entries[list.count++] = at;
    this.fills++;
  }

  // ---- the page walk ----

  /**
   * Sees to it that the page of a physical address is here before anything reads or writes it; the TLB only ever leads to
   * such pages. @throws the processor's fault object with vector ABSENT
   */
  private need(physical: number): void {
    const { absent } = this.cpu.memory;
    if (absent === undefined) return;
    const page = Math.floor(physical / 4096);
    if (absent[page] !== 1) return;
    this.cpu.memory.onAbsent(page);
    throw this.cpu.fault(ABSENT);
  }

  /** Records a page fault. @returns what `find` returns for it */
  private pageFault(lo: number, hi: number, code: number): number {
    this.cpu.pageFault(lo, hi, code);
    return FAULTED;
  }

  /**
   * Physical address of a linear address, setting accessed and dirty bits and filling the TLB.
   *
   * @param user the access counts as user mode's
   * @throws the processor's fault object: #PF, or #GP/#SS for a non-canonical address
   */
  translate(lo: number, hi: number, access: Access, user: boolean): number {
    const physical = this.find(lo, hi, access, user);
    if (physical === FAULTED) throw this.cpu.faultObject;
    return physical;
  }

  /**
   * As `translate`, but page faults, which are common and cost a microsecond to throw, are returned.
   *
   * @returns `FAULTED` with the page fault in the processor's fault object
   * @throws the processor's fault object for any other fault
   */
  find(lo: number, hi: number, access: Access, user: boolean): number {
    const cpu = this.cpu;
    const write = access === 'write';
    if (access !== 'fetch') {
      const device = this.devices.find(lo, hi, write, user);
      if (device >= 0) return device;
    }
    this.global = false;
    if (!(cpu.cr0 & CR0_PG)) {
      const page = (lo & 0xfffff000) >>> 0;
      this.need(page);
      this.cache(lo, hi, page, true, user, false);
      return lo >>> 0;
    }
    let code = (write ? PfError.W : 0) | (user ? PfError.U : 0);
    const nx = (cpu.efer & EFER_NXE) !== 0;
    if (access === 'fetch' && nx) code |= PfError.I;
    if (cpu.efer & EFER_LMA || cpu.cr4 & CR4_PAE) return this.walk64(lo, hi, access, user, code, nx);
    return this.walk32(lo, hi, access, user, code);
  }

  /** 4-level paging (SDM vol. 3, 4.5) and PAE paging (4.4), which share the entry format. */
  private walk64(lo: number, hi: number, access: Access, user: boolean, code: number, nx: boolean): number {
    const cpu = this.cpu;
    const long = (cpu.efer & EFER_LMA) !== 0;
    if (long && (hi << 15) >> 31 !== hi >> 15) throw cpu.nonCanonical();
    const write = access === 'write';
    let table = (cpu.cr3Low & (long ? 0xfffff000 : 0xffffffe0)) >>> 0;
    let writable = true;
    let userOk = true;
    let executable = true;
    for (let level = long ? 4 : 3; level >= 1; level--) {
      const index =
        level === 4
          ? (hi >>> 7) & 0x1ff
          : level === 3
            ? long
              ? ((hi << 2) | (lo >>> 30)) & 0x1ff
              : lo >>> 30
            : level === 2
              ? (lo >>> 21) & 0x1ff
              : (lo >>> 12) & 0x1ff;
      const at = table + index * 8;
      this.need(at);
      const entryLow = this.readPhysical32(at);
      const entryHigh = this.readPhysical32(at + 4);
      if (!(entryLow & 1)) return this.pageFault(lo, hi, code);
      if (entryHigh & 0x000fff00 || (!nx && entryHigh < 0))
        return this.pageFault(lo, hi, code | PfError.P | PfError.RSVD);
      const pdpte = !long && level === 3;
      if (!pdpte) {
        if (!(entryLow & 2)) writable = false;
        if (!(entryLow & 4)) userOk = false;
        if (entryHigh < 0) executable = false;
      }
      const large = level > 1 && (entryLow & 0x80) !== 0 && !pdpte;
      if (large && level === 4) return this.pageFault(lo, hi, code | PfError.P | PfError.RSVD);
      if (level === 1 || large) {
        const offsetMask = level === 1 ? 0xfff : level === 2 ? 0x1fffff : 0x3fffffff;
        if (large && entryLow & offsetMask & ~0x1fff) return this.pageFault(lo, hi, code | PfError.P | PfError.RSVD);
        if (
          (user && !userOk) ||
          (write && !writable && (user || cpu.cr0 & CR0_WP)) ||
          (access === 'fetch' && !executable)
        )
          return this.pageFault(lo, hi, code | PfError.P);
        const base = ((entryLow & ~offsetMask & 0xfffff000) >>> 0) + (entryHigh & 0xff) * 0x1_0000_0000;
        const physical = base + (lo & offsetMask);
        this.need(physical);
        const set = 0x20 | (write ? 0x40 : 0);
        if ((entryLow & set) !== set) this.writePhysical32(at, entryLow | set);
        const dirty = write || (entryLow & 0x40) !== 0;
        const global = (entryLow & 0x100) !== 0 && (cpu.cr4 & CR4_PGE) !== 0;
        this.global = global;
        if (large) this.noteLarge(level === 2 ? lo >>> 21 : HUGE + (lo >>> 30), hi);
        if (access !== 'fetch') {
          const page = physical - (lo & 0xfff);
          this.cache(lo, hi, page, dirty && (writable || !(user || cpu.cr0 & CR0_WP)), user, global);
        }
        return physical;
      }
      if (!(entryLow & 0x20) && !pdpte) this.writePhysical32(at, entryLow | 0x20);
      table = ((entryLow & 0xfffff000) >>> 0) + (entryHigh & 0xff) * 0x1_0000_0000;
    }
    throw new Error('unreachable: the page walk ends at level 1');
  }

  /**
   * Physical page that code at a linear address would be fetched from, if the page tables say that it is there and has been
   * accessed before: nothing is changed by this, nor raised. In 4-level paging only.
   *
   * @returns FAULTED where it is not so
   */
  peekCode(lo: number, hi: number, user: boolean): number {
    const { cpu } = this;
    if (!(cpu.efer & EFER_LMA) || (hi << 15) >> 31 !== hi >> 15) return FAULTED;
    const indices = [(hi >>> 7) & 0x1ff, ((hi << 2) | (lo >>> 30)) & 0x1ff, (lo >>> 21) & 0x1ff, (lo >>> 12) & 0x1ff];
    const needed = user ? 0x25 : 0x21;
    let table = (cpu.cr3Low & 0xfffff000) >>> 0;
    for (let level = 4; level >= 1; level--) {
      const at = table + indices[4 - level]! * 8;
      if (at + 8 > this.ramSize || cpu.memory.absent?.[at >>> 12] === 1) return FAULTED;
      const low = this.readPhysical32(at);
      const high = this.readPhysical32(at + 4);
      if ((low & needed) !== needed || high & 0x000fff00 || high < 0) return FAULTED;
      const large = level > 1 && (low & 0x80) !== 0;
      if (level === 4 && large) return FAULTED;
      const mask = level === 1 ? 0xfff : level === 2 ? 0x1fffff : 0x3fffffff;
      if (large && low & mask & ~0x1fff) return FAULTED;
      if (level > 1 && !large) {
        table = ((low & 0xfffff000) >>> 0) + (high & 0xff) * 0x1_0000_0000;
        continue;
      }
      this.global = (low & 0x100) !== 0 && (cpu.cr4 & CR4_PGE) !== 0;
      return ((low & ~mask & 0xfffff000) >>> 0) + (high & 0xff) * 0x1_0000_0000 + (lo & mask & ~0xfff);
    }
    return FAULTED;
  }

  /** 32-bit paging (SDM vol. 3, 4.3). */
  private walk32(lo: number, hi: number, access: Access, user: boolean, code: number): number {
    const cpu = this.cpu;
    const write = access === 'write';
    const pdeAt = ((cpu.cr3Low & 0xfffff000) >>> 0) + (lo >>> 22) * 4;
    this.need(pdeAt);
    const pde = this.readPhysical32(pdeAt);
    if (!(pde & 1)) return this.pageFault(lo, hi, code);
    const large = (pde & 0x80) !== 0 && (cpu.cr4 & CR4_PSE) !== 0;
    const pteAt = large ? pdeAt : ((pde & 0xfffff000) >>> 0) + ((lo >>> 12) & 0x3ff) * 4;
    this.need(pteAt);
    const pte = large ? pde : this.readPhysical32(pteAt);
    if (!(pte & 1)) return this.pageFault(lo, hi, code);
    const writable = (pde & pte & 2) !== 0;
    const userOk = (pde & pte & 4) !== 0;
    if ((user && !userOk) || (write && !writable && (user || cpu.cr0 & CR0_WP)))
      return this.pageFault(lo, hi, code | PfError.P);
    const physical = large ? ((pte & 0xffc00000) >>> 0) + (lo & 0x3fffff) : ((pte & 0xfffff000) >>> 0) + (lo & 0xfff);
    this.need(physical);
    if (!large && !(pde & 0x20)) this.writePhysical32(pdeAt, pde | 0x20);
    const set = 0x20 | (write ? 0x40 : 0);
    if ((pte & set) !== set) this.writePhysical32(pteAt, pte | set);
    const dirty = write || (pte & 0x40) !== 0;
    if (large) {
      this.noteLarge((lo >>> 21) & ~1, hi);
      this.noteLarge((lo >>> 21) | 1, hi);
    }
    if (access !== 'fetch')
      this.cache(
        lo,
        hi,
        physical - (lo & 0xfff),
        dirty && (writable || !(user || cpu.cr0 & CR0_WP)),
        user,
        (pte & 0x100) !== 0 && (cpu.cr4 & CR4_PGE) !== 0,
      );
    return physical;
  }

  /**
   * Fills the tables of the privilege that asks, as far as the page's rights allow: pages are mostly the kernel's or a program's,
   * and each entry costs a line of the host's cache, now and when it is forgotten. Nothing for pages under watch.
   */
  private cache(lo: number, hi: number, page: number, writable: boolean, user: boolean, global: boolean): void {
    if (this.watching) return;
    if (page + 4096 > this.ramSize) {
      this.devices.remember(lo, hi, page, writable, user);
      return;
    }
    this.fill(user ? TLB_USER_READ : TLB_KERNEL_READ, lo, hi, page, global);
    // A page with translated code takes its writes one by one, so that the code can be dropped.
    if (!writable || this.cpu.hasCode(page)) return;
    this.cpu.memory.touched[page >>> 12]! |= 1 | MAPPED;
    this.fill(user ? TLB_USER_WRITE : TLB_KERNEL_WRITE, lo, hi, page, global);
  }

  // ---- physical memory ----

  readPhysical32(address: number): number {
    if (address + 4 <= this.ramSize) return this.view.getInt32(RAM_BASE + address, true);
    return this.bus.readMmio(address, 4) | 0;
  }

  writePhysical32(address: number, value: number): void {
    if (address + 4 <= this.ramSize) {
      if (this.cpu.hasCode(address)) this.cpu.codeWritten(address, 4);
      this.cpu.memory.touched[address >>> 12]! |= 1;
      this.view.setInt32(RAM_BASE + address, value, true);
    } else this.bus.writeMmio(address, 4, value >>> 0);
  }

  /** Reads bytes that lie in one page at a physical address into host memory at `to`. */
  private readBytes(physical: number, size: number, to: number): void {
    if (physical + size <= this.ramSize) {
      this.u8.copyWithin(to, RAM_BASE + physical, RAM_BASE + physical + size);
      return;
    }
    for (let i = 0; i < size;) {
      const n: Width = size - i >= 4 ? 4 : size - i >= 2 ? 2 : 1;
      const v = this.bus.readMmio(physical + i, n);
      for (let k = 0; k < n; k++) this.u8[to + i + k] = v >>> (8 * k);
      i += n;
    }
  }

  /** Writes bytes that lie in one page. */
  private writeBytes(from: number, physical: number, size: number): void {
    if (physical + size <= this.ramSize) {
      if (this.cpu.hasCode(physical)) this.cpu.codeWritten(physical, size);
      this.cpu.memory.touched[physical >>> 12]! |= 1;
      this.u8.copyWithin(RAM_BASE + physical, from, from + size);
      return;
    }
    for (let i = 0; i < size;) {
      const n: Width = size - i >= 4 ? 4 : size - i >= 2 ? 2 : 1;
      let v = 0;
      for (let k = 0; k < n; k++) v |= this.u8[from + i + k]! << (8 * k);
      this.bus.writeMmio(physical + i, n, v >>> 0);
      i += n;
    }
  }

  // ---- access for emitted code (slow path) ----

  private get scratch(): number {
    return this.cpu.state + S.SCRATCH;
  }

  /**
   * The slow path of `Emit.access`: a host address for `size` bytes at a linear address, in RAM where they can be used in
   * place, else the bounce buffer with the bytes in it. A write is taken back by `commit`.
   * @throws the processor's fault object
   */
  access(lo: number, hi: number, size: number, write: boolean): number {
    const user = this.cpu.cpl === 3;
    const kind: Access = write ? 'write' : 'read';
    if (this.watching) this.cpu.dataBreak(lo, hi, size, write);
    const inPage = 4096 - (lo & 0xfff);
    if (size > inPage) this.checkEnd(lo, hi, inPage);
    const first = this.translate(lo, hi, kind, user);
    if (size <= inPage) return this.accessAt(first, lo, hi, size, write);
    const nextLow = (lo + inPage) | 0;
    const nextHigh = this.nextHigh(nextLow, hi);
    const second = this.translate(nextLow, nextHigh, kind, user);
    this.readBytes(first, inPage, this.scratch);
    this.readBytes(second, size - inPage, this.scratch + inPage);
    return this.bounce(lo, hi, size, write);
  }

  /** `access` within a page, once it is translated. */
  accessAt(physical: number, lo: number, hi: number, size: number, write: boolean): number {
    if (physical + size <= this.ramSize && !(write && this.cpu.hasCode(physical))) {
      // Where it is watched there is no entry in the TLB that would have marked it.
      if (write) this.cpu.memory.touched[physical >>> 12]! |= 1;
      return RAM_BASE + physical;
    }
    this.readBytes(physical, size, this.scratch);
    return this.bounce(lo, hi, size, write);
  }

  /** The bounce buffer, and where `commit` is to write it. */
  private bounce(lo: number, hi: number, size: number, write: boolean): number {
    if (write) {
      this.bounceLow = lo;
      this.bounceHigh = hi;
      this.bounceSize = size;
    }
    return this.scratch;
  }

  /** Upper half of the next page's address. Outside 64-bit code 4 GiB is followed by 0. */
  private nextHigh(nextLow: number, hi: number): number {
    return nextLow === 0 && !(hi === 0 && !this.cpu.code64) ? (hi + 1) | 0 : hi;
  }

  /**
   * An access that goes on for more than the `inPage` bytes that are left in its page: one that ends past the canonical
   * addresses is #GP (or #SS) before any page is looked at.
   */
  checkEnd(lo: number, hi: number, inPage: number): void {
    if (((lo + inPage) | 0) === 0 && hi === 0x7fff && this.cpu.longMode) throw this.cpu.nonCanonical();
  }

  /** Writes the bounce buffer back to where the last `access` for writing took it from. */
  commit(): void {
    this.store(this.bounceLow, this.bounceHigh, this.bounceSize);
  }

  /** `store` within a page, once it is translated. */
  storeAt(physical: number, size: number): void {
    this.writeBytes(this.scratch, physical, size);
  }

  /** The slow path of `Emit.store`: writes `size` bytes of the bounce buffer to a linear address. @throws faults */
  store(lo: number, hi: number, size: number): void {
    const user = this.cpu.cpl === 3;
    if (this.watching) this.cpu.dataBreak(lo, hi, size, true);
    const inPage = 4096 - (lo & 0xfff);
    if (size > inPage) this.checkEnd(lo, hi, inPage);
    const first = this.translate(lo, hi, 'write', user);
    if (size <= inPage) {
      this.storeAt(first, size);
      return;
    }
    const nextLow = (lo + inPage) | 0;
    const nextHigh = this.nextHigh(nextLow, hi);
    const second = this.translate(nextLow, nextHigh, 'write', user);
    this.writeBytes(this.scratch, first, inPage);
    this.writeBytes(this.scratch + inPage, second, size - inPage);
  }

  // ---- access for TypeScript ----

  /**
   * Host address of `size` bytes at a linear address, as `access` gives it, with the fast path first.
   * @param system the access counts as the supervisor's whatever CPL is (descriptor tables, TSS)
   */
  private at(lo: number, hi: number, size: number, write: boolean, system: boolean): number {
    const user = !system && this.cpu.cpl === 3;
    const table = write ? (user ? TLB_USER_WRITE : TLB_KERNEL_WRITE) : user ? TLB_USER_READ : TLB_KERNEL_READ;
    const at = (table >>> 2) + ((lo >>> 12) << 1);
    if ((this.u32[at + 1]! | 0) === (hi | 0) && (lo & 0xfff) + size <= 4096) return (this.u32[at]! ^ lo) >>> 0;
    if (!system || this.cpu.cpl !== 3) return this.access(lo, hi, size, write);
    const cpl = this.cpu.cpl;
    this.cpu.cpl = 0;
    try {
      return this.access(lo, hi, size, write);
    } finally {
      this.cpu.cpl = cpl;
    }
  }

  /** Host address of `size` bytes at a linear address that can be used in place, if the TLB knows it and they end in its page; else −1. */
  inPlace(lo: number, hi: number, size: number, write: boolean, system: boolean): number {
    const user = !system && this.cpu.cpl === 3;
    const table = write ? (user ? TLB_USER_WRITE : TLB_KERNEL_WRITE) : user ? TLB_USER_READ : TLB_KERNEL_READ;
    const at = (table >>> 2) + ((lo >>> 12) << 1);
    if ((this.u32[at + 1]! | 0) !== (hi | 0) || (lo & 0xfff) + size > 4096) return -1;
    return (this.u32[at]! ^ lo) >>> 0;
  }

  read8(lo: number, hi: number, system = false): number {
    return this.u8[this.at(lo, hi, 1, false, system)]!;
  }
  read16(lo: number, hi: number, system = false): number {
    return this.view.getUint16(this.at(lo, hi, 2, false, system), true);
  }
  /** Signed. */
  read32(lo: number, hi: number, system = false): number {
    return this.view.getInt32(this.at(lo, hi, 4, false, system), true);
  }
  /** Low half returned, high half in `high`; both signed. */
  read64(lo: number, hi: number, system = false): number {
    const host = this.at(lo, hi, 8, false, system);
    this.high = this.view.getInt32(host + 4, true);
    return this.view.getInt32(host, true);
  }
  /** High half of the last `read64`. */
  high = 0;
  readBig(lo: number, hi: number, system = false): bigint {
    return this.view.getBigUint64(this.at(lo, hi, 8, false, system), true);
  }
  write8(lo: number, hi: number, value: number, system = false): void {
    const host = this.at(lo, hi, 1, true, system);
    this.u8[host] = value;
    if (host === this.scratch) this.commitAs(system);
  }
  write16(lo: number, hi: number, value: number, system = false): void {
    const host = this.at(lo, hi, 2, true, system);
    this.view.setUint16(host, value, true);
    if (host === this.scratch) this.commitAs(system);
  }
  write32(lo: number, hi: number, value: number, system = false): void {
    const host = this.at(lo, hi, 4, true, system);
    this.view.setInt32(host, value, true);
    if (host === this.scratch) this.commitAs(system);
  }
  write64(lo: number, hi: number, valueLow: number, valueHigh: number, system = false): void {
    const host = this.at(lo, hi, 8, true, system);
    this.view.setInt32(host, valueLow, true);
    this.view.setInt32(host + 4, valueHigh, true);
    if (host === this.scratch) this.commitAs(system);
  }

  private commitAs(system: boolean): void {
    if (!system || this.cpu.cpl !== 3) return this.commit();
    const cpl = this.cpu.cpl;
    this.cpu.cpl = 0;
    try {
      this.commit();
    } finally {
      this.cpu.cpl = cpl;
    }
  }

  /**
   * For bulk operations (string instructions, FXSAVE): host address of the byte at a linear address if its page is plain
   * RAM for this access (then everything up to the page's end can be used in place), or −1: go byte by byte through
   * read and write. @throws faults
   */
  hostPage(lo: number, hi: number, write: boolean): number {
    const host = this.at(lo, hi, 1, write, false);
    return host === this.scratch ? -1 : host;
  }
}
