/** Random trees are scanned, sent and written again; and hostile senders try to reach beyond the tree. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { RbsError } from "../base/errors.ts";
import { random } from "../testing/pipe.ts";
import { changeTree, describeFolder, describeTree, type MadeTree, makeTree, writeMadeTree } from "../testing/trees.ts";
import { type TempDir, tempDir } from "../../tests/support/temp_dir.ts";
import { BatchEncoder, decodeBatch, type TreeRecord } from "./batch.ts";
import { type Entry, sameEntry } from "./entry.ts";
import { TreeError } from "./names.ts";
import { digestFile, digestOf, PIECE_BYTES, readLarge, readSmall } from "./read.ts";
import { lookAt, type ScannedEntry, scanTree } from "./scan.ts";
import { TreeWriter } from "./writer.ts";
import { localFiles } from "./local_files.ts";

type Below = (n: number) => number;

/** A made-up tree on a disk. */
async function materialize(directory: TempDir, tree: MadeTree): Promise<string> {
  const root = await Deno.makeTempDir({ dir: directory.path });
  writeMadeTree(root, tree);
  return root;
}

/** All of a tree, with digests. */
async function known(root: string): Promise<Map<string, ScannedEntry>> {
  const found = await scanTree(localFiles, root);
  for (const entry of found.values()) {
    if (entry.kind === "file") entry.digest = digestFile(localFiles, `${root}/${entry.path}`);
  }
  return found;
}

/** What makes `there` the same as `wanted`, which stands at `root`. */
function* changes(root: string, wanted: Map<string, Entry>, there: Map<string, Entry>): Generator<TreeRecord> {
  for (const path of there.keys()) if (!wanted.has(path)) yield { remove: path };
  for (const entry of wanted.values()) {
    const before = there.get(entry.path);
    if (before && sameEntry(before, entry)) continue;
    if (entry.kind !== "file") yield { entry };
    else if (entry.size <= PIECE_BYTES) {
      const { entry: now, content } = readSmall(localFiles, root, entry.path)!;
      yield { entry: now, content };
    } else {
      let at = 0;
      for (
        const content of readLarge(localFiles, root, {
          ...lookAt(localFiles, root, entry.path) as ScannedEntry,
          digest: entry.digest,
        })
      ) {
        const first = at === 0;
        at += content.length;
        yield { entry: first ? entry : undefined, content, more: at < entry.size };
      }
    }
  }
}

/** Sends records as they travel. */
function send(below: Below, records: Iterable<TreeRecord>, writer: TreeWriter): void {
  const encoder = new BatchEncoder({ bytes: [1, 2000, 1 << 20][below(3)] });
  encoder.compress = below(2) > 0;
  const take = (batch: Uint8Array | undefined) => {
    if (batch) { for (const record of decodeBatch(batch)) writer.apply(record); }
  };
  for (const record of records) take(encoder.add(record));
  take(encoder.flush());
  writer.close();
}

async function travels(seed: number, raw: boolean): Promise<void> {
  const below = random(seed);
  await using directory = await tempDir();
  const root = directory.join("root"), staging = directory.join("staging");
  let tree = makeTree(below, 50, raw);
  for (let round = 0; round < 4; round++) {
    const from = await materialize(directory, tree);
    const there = round === 0 ? new Map() : await known(root);
    send(below, changes(from, await known(from), there), new TreeWriter({ files: localFiles, root, staging }));
    const message = `seed ${seed}, round ${round}`;
    assert.deepEqual(await describeFolder(root), describeTree(tree, digestOf), message);
    assert.deepEqual([...Deno.readDirSync(staging)], [], message);
    // Nothing is left to be sent.
    assert.deepEqual([...changes(from, await known(from), await known(root))], [], message);
    tree = changeTree(below, tree, raw);
  }
}

Deno.test("a tree that was sent is the same tree, and so is what became of it", async () => {
  for (let seed = 1; seed <= 20; seed++) await travels(seed, false);
});

Deno.test("and so if names are not UTF-8", async () => {
  for (let seed = 1; seed <= 3; seed++) await travels(seed, true);
});

/** Records of a sender that tries everything, with few names, so that its records meet each other. */
function hostile(below: Below, outside: string): TreeRecord {
  const pick = <T>(from: readonly T[]): T => from[below(from.length)];
  const name = () =>
    below(25) ? pick(["a", "b", "l", "file", "folder", "canary"]) : pick(["..", ".", "", "/", "\udcff"]);
  const path = () =>
    below(30) === 0
      ? pick([`${outside}/file`, "../canary/file", "../staging", "a/../../canary", "/"])
      : Array.from({ length: 1 + below(4) }, name).join("/") || "a";
  const content = Buffer.alloc(below(2) * 5 + below(3), "x");
  const digest = below(8) ? digestOf(content) : Buffer.alloc(32);
  const entry = (): Entry => {
    const kind = pick(["file", "directory", "symlink"] as const);
    return {
      path: path(),
      kind,
      mode: below(0o10000) | (kind === "directory" ? 0o700 : 0),
      size: below(8) ? content.length : below(100),
      mtimeMs: below(2 ** 31) * 1000,
      target: kind === "symlink"
        ? pick([outside, "../canary", "../../canary", "..", "../staging", "l", "a"])
        : undefined,
      digest: below(9) && kind === "file" ? digest : undefined,
    };
  };
  const more = below(40) === 0, offset = below(40) === 0 ? below(9) : 0;
  switch (below(8)) {
    case 0:
      return { remove: path() };
    case 1:
      return { entry: { ...entry(), kind: "file", target: undefined, digest }, copyFrom: path() };
    case 2:
      return { content, more, digest: below(2) ? digest : undefined };
    default:
      return { entry: entry(), content, more, offset, digest: below(5) ? undefined : digest };
  }
}

Deno.test("whatever a sender sends, nothing outside of the tree is touched, and nothing else is thrown than refusals", async () => {
  let applied = 0;
  for (let seed = 1; seed <= 30; seed++) {
    const below = random(seed);
    await using directory = await tempDir();
    const outside = directory.join("canary");
    Deno.mkdirSync(`${outside}/folder/a`, { recursive: true });
    for (const file of ["file", "a", "folder/file", "folder/a/b"]) {
      Deno.writeTextFileSync(`${outside}/${file}`, "xxxxx");
    }
    const state = async () =>
      [...(await scanTree(localFiles, outside)).values()].map((entry) => ({ ...entry, racy: false }));
    const before = await state();
    const root = directory.join("root"), staging = directory.join("staging");
    let writer = new TreeWriter({ files: localFiles, root, staging });
    for (let i = 0; i < 300; i++) {
      const record = hostile(below, outside);
      try {
        if (below(2)) writer.apply(record);
        else {
          const encoder = new BatchEncoder();
          encoder.add(record);
          decodeBatch(encoder.flush() ?? new Uint8Array()).forEach((r) => writer.apply(r));
        }
        applied++;
      } catch (e) {
        assert.ok(e instanceof TreeError || e instanceof RbsError, `seed ${seed}: ${e instanceof Error ? e.stack : e}`);
      }
      if (below(15) === 0) {
        writer.close();
        assert.deepEqual([...Deno.readDirSync(staging)], [], `seed ${seed}`);
        writer = new TreeWriter({ files: localFiles, root, staging });
      }
    }
    writer.close();
    assert.deepEqual(await state(), before, `seed ${seed}`);
    assert.deepEqual([...Deno.readDirSync(directory.path)].map(({ name }) => name).sort(), [
      "canary",
      "root",
      "staging",
    ]);
  }
  assert.ok(applied > 1000, `only ${applied} records were taken`);
});
