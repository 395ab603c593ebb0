/** Trees of files that are made up, as a seed says. */
import { Buffer } from "node:buffer";
import { symlinkSync as link } from "../tree/file_calls.ts";
import { chmodSync, mkdirSync, renameSync } from "../tree/file_calls.ts";
import { decodeName, isRaw } from "../tree/names.ts";
import { localFiles } from "../tree/local_files.ts";
import { digestFile } from "../tree/read.ts";
import { scanTree } from "../tree/scan.ts";

/** What stands at a path. */
export type Thing =
  | { kind: "file"; mode: number; mtimeMs: number; content: Uint8Array }
  | { kind: "directory"; mode: number }
  | { kind: "symlink"; target: string };

/** Things by their paths; each one's folder stands there too. */
export type MadeTree = Map<string, Thing>;

type Below = (n: number) => number;

const pick = <T>(below: Below, from: readonly T[]): T => from[below(from.length)];

/** A name as somebody may give one. Those that are not UTF-8 cost milliseconds each. */
export function makeName(below: Below, raw = false): string {
  const stem = pick(below, ["a", "B", "b", "lib.so", "Case", "case", String(below(100)), "README.md", "x".repeat(200)]);
  const odd = [
    () => ` ${stem} `,
    () => `-${stem}`,
    () => `${stem}\n'"\\*$(x)\``,
    () => `${stem}\r\t\x01\x7f`,
    () => `ä${stem.slice(0, 99)}ö`,
    () => `a\u0308${stem}`,
    () => `💀${stem}\u{1f480}`,
    () => "\ufffd",
    () => "...",
    () => ".hidden",
    () => "\ufeff" + stem,
    () => "語".repeat(85),
    () => "x".repeat(255),
  ];
  if (raw && below(4) === 0) {
    const bytes = Buffer.from(Array.from({ length: 1 + below(12) }, () => 1 + below(255)).filter((b) => b !== 0x2f));
    if (bytes.length > 0 && bytes[0] !== 0x2e) return decodeName(bytes);
  }
  return below(3) === 0 ? pick(below, odd)() : stem;
}

function makeThing(below: Below): Thing {
  const kind = pick(below, ["file", "file", "file", "directory", "directory", "symlink"] as const);
  if (kind === "directory") return { kind, mode: pick(below, [0o755, 0o755, 0o700, 0o775, 0o555, 0o500, 0o1777]) };
  if (kind === "symlink") {
    const target = pick(below, [
      "a",
      "..",
      "../../..",
      "/etc/passwd",
      "/",
      "gone",
      "a/b/../c",
      "ü\n",
      "x".repeat(4000),
    ]);
    return { kind, target };
  }
  const size = pick(below, [0, 1, below(100), below(20_000), below(50) === 0 ? 1_500_000 : 7]);
  const content = Buffer.alloc(size, String(below(1000)));
  const mode = pick(below, [0o644, 0o755, 0o444, 0o600, 0o400, 0o664, 0o777, 0o555]);
  const mtimeMs = pick(below, [
    1_700_000_000_000 + below(1_000_000_000),
    below(2000),
    -below(100_000),
    4e12 + below(999),
  ]);
  return { kind, mode, mtimeMs, content };
}

/** A tree of up to `count` things. */
export function makeTree(below: Below, count: number, raw = false): MadeTree {
  const tree: MadeTree = new Map();
  for (let i = below(count + 1); i > 0; i--) addThing(below, tree, raw);
  return tree;
}

function addThing(below: Below, tree: MadeTree, raw: boolean): void {
  const folders = [""];
  for (const [path, { kind }] of tree) if (kind === "directory") folders.push(`${path}/`);
  const path = pick(below, folders) + makeName(below, raw);
  // Some room, for what tests put in front.
  if (Buffer.byteLength(path) < 3000) put(tree, path, makeThing(below));
}

/** Puts something in place of all that was at and below its path. */
function put(tree: MadeTree, path: string, thing: Thing): void {
  const before = tree.get(path);
  if (before?.kind === "directory" && thing.kind === "directory") return void tree.set(path, thing);
  remove(tree, path);
  tree.set(path, thing);
}

function remove(tree: MadeTree, path: string): void {
  for (const at of [...tree.keys()]) if (at === path || at.startsWith(`${path}/`)) tree.delete(at);
}

/** A tree that came of another by some changes. */
export function changeTree(below: Below, before: MadeTree, raw = false): MadeTree {
  const tree = new Map(before);
  for (let i = 1 + below(12); i > 0; i--) {
    const path = tree.size > 0 ? pick(below, [...tree.keys()]) : undefined;
    if (path === undefined || below(4) === 0) addThing(below, tree, raw);
    else if (below(3) === 0) remove(tree, path);
    else if (below(2) === 0) put(tree, path, makeThing(below));
    else {
      // A rename, perhaps one of which only the case is new.
      const slash = path.lastIndexOf("/") + 1;
      const name = path.slice(slash), turned = name.toUpperCase() === name ? name.toLowerCase() : name.toUpperCase();
      const to = path.slice(0, slash) + (Buffer.byteLength(turned) <= 255 && below(2) ? turned : makeName(below, raw));
      if (to === path) continue;
      const moved = [...tree].filter(([at]) => at === path || at.startsWith(`${path}/`));
      remove(tree, path);
      remove(tree, to);
      for (const [at, thing] of moved) tree.set(to + at.slice(path.length), thing);
    }
  }
  return tree;
}

/** Makes a tree real, below a folder that is there. */
export function writeMadeTree(root: string, tree: MadeTree): void {
  const modes: [string, number][] = [];
  for (const path of [...tree.keys()].sort((a, b) => depth(a) - depth(b))) {
    const thing = tree.get(path)!, full = `${root}/${path}`;
    if (thing.kind === "symlink") link(thing.target, full);
    else if (thing.kind === "directory") {
      mkdirSync(full);
      modes.push([full, thing.mode]);
    } else {
      // Deno gives times to names that are UTF-8 only.
      const named = isRaw(full) ? `${root}.new` : full;
      Deno.writeFileSync(named, thing.content);
      Deno.chmodSync(named, thing.mode);
      Deno.utimeSync(named, new Date(thing.mtimeMs), new Date(thing.mtimeMs));
      if (named !== full) renameSync(named, full);
    }
  }
  for (const [path, mode] of modes.reverse()) chmodSync(path, mode);
}

const depth = (path: string) => path.split("/").length;

/** What {@link describeFolder} says of a tree that was made real. */
export function describeTree(tree: MadeTree, digestOf: (content: Uint8Array) => Uint8Array): string[] {
  return [...tree].map(([path, thing]) =>
    thing.kind === "file"
      ? line(path, thing.kind, thing.mode, thing.content.length, thing.mtimeMs, digestOf(thing.content))
      : thing.kind === "directory"
      ? line(path, thing.kind, thing.mode)
      : line(path, thing.kind, thing.target)
  ).sort();
}

/** All that counts of a folder, as lines. */
export async function describeFolder(root: string): Promise<string[]> {
  const found = await scanTree(localFiles, root);
  return [...found.values()].map((e) =>
    e.kind === "file"
      ? line(e.path, e.kind, e.mode, e.size, e.mtimeMs, digestFile(localFiles, `${root}/${e.path}`))
      : e.kind === "directory"
      ? line(e.path, e.kind, e.mode)
      : line(e.path, e.kind, e.target!)
  ).sort();
}

function line(path: string, ...parts: (string | number | Uint8Array)[]): string {
  return JSON.stringify([path, ...parts.map((p) => typeof p === "object" ? Buffer.from(p).toString("hex") : p)]);
}
