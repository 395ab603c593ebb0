/**
 * Sends what the agent lacks of a tree, in an order in which each step is possible: removals, directories, files and
 * symlinks, and last the removal of what was moved.
 */
import { RbsError } from "../../proto/base/errors.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { type Entry, sameDigest } from "../../proto/tree/entry.ts";
import { isRaw } from "../../proto/tree/names.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { infoOf } from "../../proto/tree/file_calls.ts";
import { digestLarge, digestOf, PIECE_BYTES, readLarge, readSmall, type StableFile } from "../../proto/tree/read.ts";
import { looksSame, type ScannedEntry } from "../../proto/tree/scan.ts";
import type { ApplyCall } from "./agent_calls.ts";
import type { LocalTree } from "./pending_tree.ts";
import type { Progress } from "./progress.ts";

/** A smaller file is sent again rather than copied at the agent. Bytes. */
const WORTH_COPYING = 4096;

/** What has to be sent of a tree. */
export interface Plan {
  readonly tree: LocalTree;
  removals: string[];
  folders: ScannedEntry[];
  /** Files and symlinks. */
  others: ScannedEntry[];
  /** Files at the agent that are to be removed, by digest in hex. New files may be copied from them. */
  sources: Map<string, string>;
  /** Removals that must follow the copies. */
  lateRemovals: string[];
  /** Counts of `others`: `files` and `bytes` cover what is certain to be sent. */
  files: number;
  bytes: number;
}

/** The plan for entries of a tree of which the agent has nothing. */
export function planOf(tree: LocalTree, entries: readonly ScannedEntry[]): Plan {
  const folders = entries.filter(({ kind }) => kind === "directory");
  const others = entries.filter(({ kind }) => kind !== "directory");
  return { tree, removals: [], folders, others, sources: new Map(), lateRemovals: [], files: others.length, bytes: 0 };
}

/** The plan for what is pending of a tree. */
export function makePlan(tree: LocalTree): Plan {
  const plan: Plan = {
    tree,
    removals: [],
    folders: [],
    others: [],
    sources: new Map(),
    lateRemovals: [],
    files: 0,
    bytes: 0,
  };
  const { entries } = tree;
  const gone: string[] = [];
  const sizes = new Set<number>();
  for (const path of [...tree.pending.keys()].sort()) {
    if (tree.isHeld(path)) continue;
    const entry = entries.get(path);
    if (!entry) gone.push(path);
    else if (entry.kind === "directory") plan.folders.push(entry);
    else {
      plan.others.push(entry);
      plan.files++;
      plan.bytes += entry.size;
      if (entry.kind === "file") sizes.add(entry.size);
    }
  }
  const late = new Set<string>();
  for (const path of gone) {
    const top = topmostGone(path, entries);
    // A path below a replaced directory is removed with the directory.
    if (top === undefined) continue;
    if (top === path) plan.removals.push(path);
    const theirs = tree.pending.get(path);
    if (theirs?.kind !== "file" || !theirs.digest || theirs.size < WORTH_COPYING || !sizes.has(theirs.size)) continue;
    if (isRaw(path)) continue;
    plan.sources.set(theirs.digest.toHex(), path);
    late.add(top);
  }
  plan.lateRemovals = plan.removals.filter((path) => late.has(path));
  plan.removals = plan.removals.filter((path) => !late.has(path));
  return plan;
}

/** The topmost path at or above `path` that no longer exists; undefined if a parent is no longer a directory. */
function topmostGone(path: string, entries: ReadonlyMap<string, Entry>): string | undefined {
  for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
    const above = path.slice(0, slash);
    const entry = entries.get(above);
    if (!entry) return above;
    if (entry.kind !== "directory") return undefined;
  }
  return path;
}

/** How {@link sendPlan} sends. */
export interface SendOptions {
  signal: AbortSignal;
  progress: Progress;
  /** How many bytes the agent has of large files that were cut off, by digest in hex. */
  partials: ReadonlyMap<string, number>;
  /** Called for a file that cannot be sent. The agent then lacks it. */
  onUnreadable(path: string, error: RbsError): void;
}

/**
 * Sends a plan's records. Throws what the call throws, and a FileChanged when a large file changed while it was sent.
 * The call is unusable after that.
 */
export async function sendPlan(call: ApplyCall, plan: Plan, options: SendOptions): Promise<void> {
  for (const remove of plan.removals) await call.add({ remove });
  for (const entry of plan.folders) {
    await call.add({ entry });
    plan.tree.sent(entry.path, entry);
  }
  const pace = new Pace(options.signal);
  for (const entry of plan.others) {
    const sending = entry.kind === "symlink"
      ? sendLink(call, plan, entry)
      : entry.size > PIECE_BYTES
      ? sendLarge(call, plan, entry.path, options)
      : sendSmall(call, plan, entry, options);
    // Most records only join a batch; a promise for each would cost more than the record.
    if (sending) await sending;
    if (entry.size <= PIECE_BYTES) options.progress.sent(1, entry.size);
    if (pace.due) await pace.rest();
  }
  for (const remove of plan.lateRemovals) await call.add({ remove });
}

/** One buffer for all small files: the content is copied into a batch at once. */
const buffer = new Uint8Array(PIECE_BYTES);

/**
 * The content of a small file that still has the stat of its scan, so it has not changed in between. Otherwise, and on
 * any error, undefined: {@link readSmall} then finds out.
 *
 * @param wantsDigest Whether to compute the digest, a sixth of the work. See {@link LocalTree.digestAll}.
 */
function readScanned(root: string, entry: ScannedEntry, wantsDigest: boolean): StableFile | undefined {
  if (entry.racy || isRaw(entry.path)) return undefined;
  let size = 0;
  try {
    using file = Deno.openSync(`${root}/${entry.path}`);
    while (size < entry.size) {
      const n = file.readSync(buffer.subarray(size, entry.size));
      if (n === null) return undefined;
      size += n;
    }
    if (!looksSame(entry, infoOf(file.statSync()))) return undefined;
  } catch {
    return undefined;
  }
  const content = buffer.subarray(0, size);
  // The same object is changed: a hundred thousand new ones would be a quarter of the heap.
  if (wantsDigest) entry.digest = digestOf(content);
  return { entry, content };
}

function sendSmall(call: ApplyCall, plan: Plan, entry: ScannedEntry, options: SendOptions): Promise<void> | undefined {
  const { tree } = plan;
  let read: StableFile | undefined;
  try {
    read = readScanned(tree.root, entry, mayBeCopied(plan, entry)) ?? readSmall(localFiles, tree.root, entry.path);
  } catch (e) {
    return sendUnreadable(call, plan, entry.path, e, options);
  }
  if (!read) return sendChanged(call, plan, entry, options);
  tree.sent(entry.path, read.entry);
  const from = copySource(plan, read.entry);
  return call.add(
    from === undefined ? { entry: read.entry, content: read.content } : { entry: read.entry, copyFrom: from },
  );
}

function sendLink(call: ApplyCall, { tree }: Plan, entry: ScannedEntry): Promise<void> | undefined {
  tree.sent(entry.path, entry);
  return call.add({ entry });
}

async function sendLarge(call: ApplyCall, plan: Plan, path: string, options: SendOptions): Promise<void> {
  const { tree } = plan;
  let entry: ScannedEntry | undefined;
  try {
    entry = await digestLarge(localFiles, tree.root, path, {
      signal: options.signal,
      onBytes: () => options.progress.tick(),
    });
  } catch (e) {
    return await sendUnreadable(call, plan, path, e, options);
  }
  if (!entry) return await sendGone(call, plan, path);
  tree.sent(path, entry);
  const from = copySource(plan, entry);
  if (from !== undefined) {
    options.progress.sent(1, entry.size);
    return await call.add({ entry, copyFrom: from });
  }
  const there = options.partials.get(entry.digest!.toHex()) ?? 0;
  // If the agent has more bytes than the file, they belong to something else.
  const offset = there > entry.size ? 0 : there;
  options.progress.sent(1, offset);
  // A piece is sent when the next one is read, since the last one must be marked.
  let held: Uint8Array = new Uint8Array(), first = true;
  const send = (more: boolean) => {
    const record = first ? { entry, content: held, offset, more } : { content: held, more };
    first = false;
    options.progress.sent(0, held.length);
    return call.add(record);
  };
  let holds = false;
  for (const piece of readLarge(localFiles, tree.root, entry, offset)) {
    if (holds) await send(true);
    held = piece;
    holds = true;
  }
  await send(false);
}

/** Whether the agent may already have the content; the digest decides. */
function mayBeCopied({ tree, sources }: Plan, { path, size }: ScannedEntry): boolean {
  const theirs = tree.pending.get(path);
  return sources.size > 0 || (theirs?.digest !== undefined && theirs.size === size);
}

/** A path at the agent with the same content. */
function copySource(plan: Plan, entry: ScannedEntry): string | undefined {
  if (!entry.digest) return undefined;
  const theirs = plan.tree.pending.get(entry.path);
  // Only its mode or time changed.
  if (theirs?.digest && sameDigest(theirs.digest, entry.digest) && entry.size >= WORTH_COPYING && !isRaw(entry.path)) {
    return entry.path;
  }
  return plan.sources.size > 0 ? plan.sources.get(entry.digest.toHex()) : undefined;
}

/** A small file that changed after the scan. */
function sendChanged(
  call: ApplyCall,
  plan: Plan,
  entry: ScannedEntry,
  options: SendOptions,
): Promise<void> | undefined {
  try {
    if (Deno.lstatSync(`${plan.tree.root}/${entry.path}`).size > PIECE_BYTES) {
      return sendLarge(call, plan, entry.path, options);
    }
  } catch { /* it is gone */ }
  return sendGone(call, plan, entry.path);
}

/** The path is gone or no longer a file. The next look at the tree finds its new state. */
function sendGone(call: ApplyCall, plan: Plan, path: string): Promise<void> | undefined {
  plan.tree.sent(path, undefined);
  plan.tree.hint(`${plan.tree.root}/${path}`, true);
  return call.add({ remove: path });
}

function sendUnreadable(
  call: ApplyCall,
  plan: Plan,
  path: string,
  error: unknown,
  options: SendOptions,
): Promise<void> | undefined {
  if (!(error instanceof RbsError)) throw error;
  options.onUnreadable(`${plan.tree.root}/${path}`, error);
  plan.tree.sent(path, undefined);
  return call.add({ remove: path });
}
