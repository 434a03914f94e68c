/**
 * The control-flow graph of a region, made reducible, and the order in which structured WebAssembly can be written from it.
 *
 * A region has one main entry and others (where calls return to). An entry into the middle of a loop would make the loop
 * irreducible, so such an entry goes through a dispatch node in front of the loop's header, which looks at a selector;
 * within the loop that costs one test of a local a round. Edges that are irreducible all the same go back to the start,
 * with a selector of their own.
 */
import type { Block } from '../block.ts';
import type { Stride } from './strides.ts';

export interface Node {
  /**
   * `indirect`: where indirect jumps and returns within the region come together; `dispatch`: in front of a loop; `stride`: between
   * these two, where a loop is written twice (strides.ts).
   */
  readonly kind: 'start' | 'block' | 'dispatch' | 'indirect' | 'stride';
  readonly block: Block | undefined;
  /** Edges within the region, in no order. */
  successors: Node[];
  /** start, dispatch: where selector value k goes; `last` resets the selector. */
  routes: { selector: number; to: Node; last: boolean }[];
  /** dispatch, stride: what it stands in front of. */
  header: Node | undefined;
  stride: Stride | undefined;
  // Results of the analysis:
  order: number;
  dominator: Node | undefined;
  children: Node[];
  forwardIn: number;
  isLoop: boolean;
  /** Of the analysis under way: what leads here, and the last search that came by. */
  predecessors: Node[];
  seen: number;
}

function node(kind: Node['kind'], block?: Block): Node {
  return {
    kind,
    block,
    successors: [],
    routes: [],
    header: undefined,
    stride: undefined,
    order: -1,
    dominator: undefined,
    children: [],
    forwardIn: 0,
    isLoop: false,
    predecessors: [],
    seen: 0,
  };
}

export interface Graph {
  readonly start: Node;
  /** Where an edge to this block goes: its dispatch node, where there is one. */
  target(block: Block): Node | undefined;
  /** Where an indirect jump within the region goes; undefined if there is none. */
  readonly indirect: Node | undefined;
  /** Whether control may come to a node again. */
  readonly loops: boolean;
  /** The selector with which the edge goes by way of the start, or undefined where it is taken as it is. */
  detour(from: Node, to: Node): number | undefined;
}

/** Counts searches, for `Node.seen`. */
let searches = 0;

/** Reverse postorder from `root`; nodes get their index as `order`. */
function reversePostorder(root: Node, next: (n: Node) => readonly Node[]): Node[] {
  const out: Node[] = [];
  const search = ++searches;
  root.seen = search;
  const stack: { n: Node; list: readonly Node[]; i: number }[] = [{ n: root, list: next(root), i: 0 }];
  while (stack.length) {
    const top = stack[stack.length - 1]!;
    if (top.i < top.list.length) {
      const s = top.list[top.i++]!;
      if (s.seen !== search) {
        s.seen = search;
        stack.push({ n: s, list: next(s), i: 0 });
      }
    } else {
      out.push(top.n);
      stack.pop();
    }
  }
  out.reverse();
  out.forEach((n, i) => (n.order = i));
  return out;
}

function notePredecessors(order: readonly Node[], next: (n: Node) => readonly Node[]): void {
  for (const n of order) n.predecessors.length = 0;
  for (const n of order) for (const s of next(n)) s.predecessors.push(n);
}

/** Immediate dominators (Cooper, Harvey, Kennedy). */
function dominators(order: readonly Node[], next: (n: Node) => readonly Node[]): void {
  notePredecessors(order, next);
  for (const n of order) n.dominator = undefined;
  const root = order[0]!;
  root.dominator = root;
  for (let changed = true; changed;) {
    changed = false;
    for (let i = 1; i < order.length; i++) {
      const n = order[i]!;
      let d: Node | undefined;
      for (const p of n.predecessors) {
        if (!p.dominator) continue;
        if (!d) d = p;
        else {
          let a: Node = p;
          let b: Node = d;
          while (a !== b) {
            while (a.order > b.order) a = a.dominator!;
            while (b.order > a.order) b = b.dominator!;
          }
          d = a;
        }
      }
      if (d !== n.dominator) {
        n.dominator = d;
        changed = true;
      }
    }
  }
}

function dominates(a: Node, b: Node): boolean {
  for (let n = b; ; n = n.dominator!) {
    if (n === a) return true;
    if (n === n.dominator || !n.dominator) return false;
  }
}

/**
 * Loops of direct edges, by header: what else leads into them does not matter to who only goes on from the header.
 *
 * @param order reverse postorder
 */
function simpleLoops(order: readonly Node[], direct: (n: Node) => readonly Node[]): Map<Node, Set<Node>> {
  const predecessors = new Map<Node, Node[]>();
  const back: [from: Node, header: Node][] = [];
  for (const n of order)
    for (const s of direct(n)) {
      if (s.order <= n.order) back.push([n, s]);
      const list = predecessors.get(s);
      if (list) list.push(n);
      else predecessors.set(s, [n]);
    }
  const loops = new Map<Node, Set<Node>>();
  for (const [from, header] of back) {
    const body = loops.get(header) ?? new Set([header]);
    loops.set(header, body);
    const stack = [from];
    while (stack.length) {
      const x = stack.pop()!;
      if (body.has(x) || x.order < header.order) continue;
      body.add(x);
      stack.push(...(predecessors.get(x) ?? []));
    }
  }
  return loops;
}

/**
 * @param blocks blocks of the region; the first is the main entry
 * @param edges direct successors of a block within the region
 * @param returns where a block's call comes back to, within the region
 * @param entries blocks that are entered from outside, by selector value (index); the first is the main entry
 * @param jumps blocks that end in an indirect jump or return
 * @param targets where such jumps may go within the region
 * @param plan whether an innermost loop is to have strides
 */
export function buildGraph(
  blocks: readonly Block[],
  edges: (b: Block) => readonly Block[],
  returns: (b: Block) => readonly Block[],
  entries: readonly Block[],
  jumps: ReadonlySet<Block>,
  targets: readonly Block[],
  plan: (header: Block, body: ReadonlySet<Block>) => Stride | undefined,
): Graph {
  const nodes = new Map<Block, Node>();
  for (const b of blocks) nodes.set(b, node('block', b));
  const indirect = jumps.size && targets.length ? node('indirect') : undefined;
  // Loops of the graph in which a call falls through to where it returns.
  const flow = (n: Node): Node[] => {
    const out = [...edges(n.block!), ...returns(n.block!)].map((b) => nodes.get(b)!);
    if (indirect && jumps.has(n.block!)) out.push(indirect);
    return out;
  };
  const flowCache = new Map<Node, Node[]>();
  for (const n of nodes.values()) flowCache.set(n, flow(n));
  if (indirect)
    flowCache.set(
      indirect,
      targets.map((b) => nodes.get(b)!),
    );
  const cached = (n: Node): Node[] => flowCache.get(n)!;
  const order = reversePostorder(nodes.get(blocks[0]!)!, cached);
  dominators(order, cached);
  const bodies = new Map<Node, Set<Node>>();
  for (const n of order)
    for (const h of cached(n))
      if (h.order <= n.order && dominates(h, n)) {
        let body = bodies.get(h);
        if (!body) bodies.set(h, (body = new Set([h])));
        const stack = [n];
        while (stack.length) {
          const x = stack.pop()!;
          if (body.has(x)) continue;
          body.add(x);
          for (const p of x.predecessors) stack.push(p);
        }
      }
  const strides = new Map<Node, Node>();
  const simple = simpleLoops(order, (n) => (n.block ? edges(n.block).map((b) => nodes.get(b)!) : []));
  for (const [h, body] of simple) {
    if ([...body].some((n) => n !== h && simple.has(n))) continue;
    const stride = plan(h.block!, new Set([...body].map((n) => n.block!)));
    if (!stride) continue;
    const r = node('stride', h.block);
    r.header = h;
    r.stride = stride;
    strides.set(h, r);
  }
  const around = (x: Node): Node[] => {
    const out: Node[] = [];
    for (const [h, body] of bodies) if (h !== x && body.has(x)) out.push(h);
    return out.sort((a, b) => a.order - b.order);
  };
  // Selected by the start: the entries, and in time what edges are led to that would be irreducible.
  const selected = new Map<Node, number>();
  for (const b of entries) selected.set(nodes.get(b)!, selected.size);
  const headers = new Map([...nodes.values()].map((n) => [n, edges(n.block!).map((b) => nodes.get(b)!)]));
  const placeOf = new Map<Node, number>();
  for (const n of order) placeOf.set(n, n.order);
  for (;;) {
    for (const [n, place] of placeOf) n.order = place;
    // Dispatch nodes for loops that are entered in the middle.
    const dispatch = new Map<Node, Node>();
    const start = node('start');
    const entryOf = (n: Node): Node => dispatch.get(n) ?? strides.get(n) ?? n;
    const ways = [...selected.keys()].map((x) => ({ x, loops: around(x) }));
    for (const { loops } of ways)
      for (const h of loops)
        if (!dispatch.has(h)) {
          const d = node('dispatch');
          d.header = strides.get(h) ?? h;
          dispatch.set(h, d);
        }
    ways.forEach(({ x, loops }, selector) => {
      const stops = [...loops.map((h) => dispatch.get(h)!), entryOf(x)];
      start.routes.push({ selector, to: stops[0]!, last: stops.length === 1 });
      for (let i = 0; i + 1 < stops.length; i++)
        stops[i]!.routes.push({ selector, to: stops[i + 1]!, last: i + 2 === stops.length });
    });
    start.successors = start.routes.map((r) => r.to);
    for (const d of dispatch.values()) d.successors = [...d.routes.map((r) => r.to), d.header!];
    for (const n of nodes.values()) {
      n.successors = headers.get(n)!.map(entryOf);
      if (indirect && jumps.has(n.block!)) n.successors.push(entryOf(indirect));
    }
    for (const [h, r] of strides) r.successors = [h, ...[...r.stride!.exits].map((b) => entryOf(nodes.get(b)!))];
    if (indirect) indirect.successors = targets.map((b) => entryOf(nodes.get(b)!));
    // Cut irreducible edges until none is left.
    const cut = new Map<Node, Set<Node>>();
    const next = (n: Node): Node[] => {
      const c = cut.get(n);
      return c ? n.successors.filter((s) => !c.has(s)) : n.successors;
    };
    let final: Node[];
    for (;;) {
      final = reversePostorder(start, next);
      dominators(final, next);
      let irreducible = false;
      for (const n of final)
        for (const s of next(n))
          if (s.order <= n.order && !dominates(s, n)) {
            irreducible = true;
            const c = cut.get(n);
            if (c) c.add(s);
            else cut.set(n, new Set([s]));
          }
      if (!irreducible) break;
    }
    const own = (n: Node): Node => (n.header ? own(n.header) : n);
    const before = selected.size;
    for (const c of cut.values()) for (const s of c) if (!selected.has(own(s))) selected.set(own(s), selected.size);
    // What is led to from the start may need dispatch nodes of its own.
    if (selected.size > before) continue;
    for (const n of final) {
      if (n.dominator && n.dominator !== n) n.dominator.children.push(n);
      for (const s of next(n)) {
        if (s.order > n.order) s.forwardIn++;
        else s.isLoop = true;
      }
    }
    if (cut.size) start.isLoop = true;
    return {
      start,
      target: (b) => {
        const n = nodes.get(b);
        return n && entryOf(n);
      },
      indirect: indirect && entryOf(indirect),
      loops: final.some((n) => n.isLoop),
      detour: (from, to) => (cut.get(from)?.has(to) ? selected.get(own(to)) : undefined),
    };
  }
}
