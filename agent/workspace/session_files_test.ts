import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { Status } from "../../proto/transport/grpc/calls.ts";
import { decodeBatch } from "../../proto/tree/batch.ts";
import { digestOf } from "../../proto/tree/read.ts";
import { NotThere, SessionFiles } from "./session_files.ts";
import { OUTPUT_BASE, status, Storage, TestService, WS } from "./testing.ts";

const OUT = `${OUTPUT_BASE}/execroot/ws/bazel-out`;

Deno.test("outputs and files of the workspace are given by the developer's names", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const files = [
    { path: `${OUT}/a`, digest: storage.write(`${storage.path}/out/execroot/ws/bazel-out/a`, "one") },
    { path: `${OUT}/empty`, digest: storage.write(`${storage.path}/out/execroot/ws/bazel-out/empty`, "") },
    { path: `${WS}/MODULE.bazel.lock`, digest: storage.write(storage.at(`${WS}/MODULE.bazel.lock`), "{}") },
  ];
  const got = await agent.fetch(...files);
  assert.deepEqual([...got].map(([path, content]) => [path, content.toString()]), [
    [`${OUT}/a`, "one"],
    [`${OUT}/empty`, ""],
    [`${WS}/MODULE.bazel.lock`, "{}"],
  ]);
});

Deno.test("large files come in pieces, from where they were cut off", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const content = randomBytes((9 << 20) + 1);
  const digest = storage.write(`${storage.path}/out/large`, content);
  const path = `${OUTPUT_BASE}/large`;
  for (const offset of [0, 1, 512 << 10, (3 << 20) + 17, content.length - 1, content.length]) {
    const got = (await agent.fetch({ path, digest, offset })).get(path)!;
    assert.ok(got.equals(content.subarray(offset)), `from ${offset}`);
  }
  await assert.rejects(agent.fetch({ path, digest, offset: content.length + 1 }), status(Status.NOT_FOUND));
});

Deno.test("a file that is not large is one record, unless it takes its time on the way", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const path = `${OUTPUT_BASE}/file`, content = randomBytes(8 << 20);
  const digest = storage.write(`${storage.path}/out/file`, content);
  const look = Deno.statSync(`${storage.path}/out/file`);
  for (const digests of [undefined, { known: () => look.size === content.length ? digest : undefined }]) {
    for (const [compress, records] of [[false, 1], [true, 16]] as const) {
      const files = new SessionFiles(storage.files, agent.paths, { digests });
      files.encoder.compress = compress;
      const got: Uint8Array[] = [];
      for await (const batch of files.read([{ path, digest, offset: 0 }])) {
        for (const record of decodeBatch(batch)) got.push(record.content!);
      }
      assert.equal(got.length, records);
      assert.ok(Buffer.concat(got).equals(content));
    }
  }
});

Deno.test("many small files share a batch", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const wanted = Array.from({ length: 500 }, (_, i) => {
    const path = `${OUT}/f${i}`;
    return {
      path,
      digest: storage.write(`${storage.path}/${agent.paths.storagePath(path)!}`, `content ${i}`),
      offset: 0,
    };
  });
  const batches: Uint8Array[] = [];
  for await (const batch of new SessionFiles(storage.files, agent.paths).read(wanted)) batches.push(batch);
  assert.equal(batches.length, 1);
});

Deno.test("a file with another content than what is wanted is not found, and those before it are there", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const digest = storage.write(`${storage.path}/out/a`, "one");
  const large = randomBytes(2 << 20);
  storage.write(`${storage.path}/out/large`, large);
  const wrong = digestOf(Buffer.from("two"));
  const a = { path: `${OUTPUT_BASE}/a`, digest, offset: 0 };
  for (const name of ["a", "large", "missing", "missing/deep", "a/below"]) {
    const path = `${OUTPUT_BASE}/${name}`;
    await assert.rejects(agent.fetch({ path, digest: wrong }), status(Status.NOT_FOUND, /"\/home\/ann/), name);
    const batches: Uint8Array[] = [];
    await assert.rejects(async () => {
      for await (
        const b of new SessionFiles(storage.files, agent.paths).read([a, { path, digest: wrong, offset: 0 }])
      ) {
        batches.push(b);
      }
    });
    assert.equal(batches.length, 1, "the first file, and nothing of the second");
    assert.ok(batches[0].length < 200);
  }
});

/** What a reader gives of one file whose digest is said to be known; `before` is done in the moment of the question. */
async function readKnown(
  storage: Storage,
  agent: TestService,
  path: string,
  digest: Uint8Array,
  before: () => void = () => {},
) {
  const known = () => {
    before();
    return digest;
  };
  const batches: Uint8Array[] = [];
  try {
    for await (
      const batch of new SessionFiles(storage.files, agent.paths, { digests: { known } }).read([{
        path,
        digest,
        offset: 0,
      }])
    ) {
      batches.push(Buffer.from(batch));
    }
    return batches;
  } catch (e) {
    assert.ok(e instanceof NotThere, String(e));
    return { batches };
  }
}

function contentOf(batches: Awaited<ReturnType<typeof readKnown>>): Buffer {
  assert.ok(Array.isArray(batches));
  return Buffer.concat(batches.flatMap(decodeBatch).map((record) => record.content!));
}

for (const [what, size] of [["small", 20_000], ["large", 3 << 20]] as const) {
  Deno.test(`the digest of a ${what} file is not made again if it is known, and the file is still the one`, async () => {
    using storage = new Storage();
    using agent = new TestService(storage);
    const content = randomBytes(size), host = `${storage.path}/out/f`, path = `${OUTPUT_BASE}/f`;
    storage.write(host, content);
    // Not its digest: nobody notices, so nobody made it.
    const digest = digestOf(Buffer.from("another"));
    const batches = await readKnown(storage, agent, path, digest);
    assert.ok(content.equals(contentOf(batches)));
    using elsewhere = new Storage();
    const secret = `${elsewhere.path}/secret`;
    Deno.writeFileSync(secret, randomBytes(size));
    const hostile: Record<string, () => void> = {
      "replaced by a symlink": () => {
        Deno.removeSync(host);
        Deno.symlinkSync(secret, host);
      },
      "replaced by another file": () => {
        Deno.removeSync(host);
        Deno.writeFileSync(host, randomBytes(size));
      },
      "shorter": () => Deno.truncateSync(host, 100),
      "gone": () => Deno.removeSync(host),
    };
    for (const [how, replace] of Object.entries(hostile)) {
      Deno.removeSync(host);
      storage.write(host, content);
      // What is changed in the same moment is nothing that a cache takes for known.
      Deno.utimeSync(host, 1_000_000, 1_000_000);
      const read = await readKnown(storage, agent, path, digest, replace);
      // Nothing; or the very file that is known, which was open already.
      if (how === "shorter" || !Array.isArray(read)) assert.deepEqual(read, { batches: [] }, how);
      else assert.ok(content.equals(contentOf(read)), how);
      storage.write(host, content);
    }
  });
}

Deno.test("nothing is given that is not in the session's storage, not even to who knows its digest", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const digest = storage.write(`${storage.path}/secret`, "secret");
  storage.write(`${storage.path}/out/kept`, "");
  storage.write(storage.at(`${WS}/kept`), "");
  Deno.symlinkSync(`${storage.path}/secret`, `${storage.path}/out/link`);
  Deno.symlinkSync(storage.path, `${storage.path}/out/folder`);
  Deno.symlinkSync(storage.path, storage.at(`${WS}/folder`));
  Deno.mkdirSync(storage.at("/a"));
  Deno.symlinkSync(`${storage.path}`, storage.at("/a/\udc80"));
  const paths = [
    `${storage.path}/secret`,
    `${OUTPUT_BASE}/link`,
    `${OUTPUT_BASE}/folder/secret`,
    `${WS}/folder/secret`,
    `${OUTPUT_BASE}/../../secret`,
    `${OUTPUT_BASE}/../secret`,
    `/../secret`,
    `/home/../../secret`,
    "secret",
    "",
    "/",
    OUTPUT_BASE,
    "/proc/self/environ",
    "/etc/passwd",
  ];
  for (const path of paths) await assert.rejects(agent.fetch({ path, digest }), status(Status.NOT_FOUND), path);
  assert.deepEqual(agent.log, []);
});

Deno.test("what is no regular file is not read", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  storage.write(`${storage.path}/out/folder/f`, "");
  await new Deno.Command("mkfifo", { args: [`${storage.path}/out/fifo`] }).output();
  for (const name of ["folder", "fifo"]) {
    await assert.rejects(
      agent.fetch({ path: `${OUTPUT_BASE}/${name}`, digest: digestOf(new Uint8Array()) }),
      status(Status.NOT_FOUND, /is no file/),
    );
  }
});

Deno.test("files with names that are not UTF-8", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const content = randomBytes(700_000);
  const records = [{
    entry: {
      path: "\udcff",
      kind: "file" as const,
      mode: 0o644,
      size: content.length,
      mtimeMs: 0,
      digest: digestOf(content),
    },
    content,
  }];
  await agent.change(records);
  const path = `${WS}/\udcff`;
  assert.ok((await agent.fetch({ path, digest: digestOf(content) })).get(path)!.equals(content));
});
