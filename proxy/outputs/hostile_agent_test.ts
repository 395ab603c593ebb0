import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { zstdCompressSync } from "node:zlib";
import type { RbsError } from "../../proto/base/errors.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { random } from "../../proto/testing/pipe.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { type FetchScript, OutputsAgent, sha256 } from "../testing/outputs_agent.ts";
import { AllowedPaths } from "./allowed_paths.ts";
import { ManifestParts, readManifest } from "./manifest.ts";
import { OutputsHome } from "./outputs_sync.ts";

const KINDS = { file: 1, directory: 2, symlink: 3 };

interface Lie {
  path: string;
  kind?: number;
  mode?: number;
  size?: number;
  target?: string;
  digest?: Uint8Array;
}

/** A TreeEntry of which nothing is checked. */
function entry({ path, target, kind = target === undefined ? KINDS.file : KINDS.symlink, ...more }: Lie): Uint8Array {
  const { mode = 0o644, size = 1, digest = kind === KINDS.file ? sha256("x") : undefined } = more;
  return encodeFields([[1, path], [2, kind], [3, mode], [4, kind === KINDS.file ? size : 0], [6, target], [7, digest]]);
}

function outputs(...lies: Lie[]): Uint8Array[] {
  return [encodeFields([...lies.map((l): [number, Uint8Array] => [1, entry(l)]), [2, sha256("id")]])];
}

type Fields = Parameters<typeof encodeFields>[0];

/** A FileBatch of which nothing is checked: fields of records, see tree.proto. */
function batch(...records: Fields[]): Uint8Array {
  const packed = encodeFields(records.map((r) => [1, encodeFields(r)]));
  return encodeFields([[2, packed.length], [3, packed]]);
}

/** Everything below a folder, but for what an agent may write, as text that shows any touch. */
function canary(root: string, mine: (path: string) => boolean): string {
  const seen: string[] = [];
  const walk = (path: string) => {
    for (const { name } of Deno.readDirSync(path)) {
      const at = `${path}/${name}`;
      if (mine(at)) continue;
      const info = Deno.lstatSync(at);
      const content = info.isSymlink ? Deno.readLinkSync(at) : info.isFile ? Deno.readTextFileSync(at) : "";
      // A folder's mtime changes with the names in it.
      seen.push([at, info.mode, info.isFile && info.mtime!.getTime(), info.ino, content].join(" "));
      if (info.isDirectory) walk(at);
    }
  };
  walk(root);
  return seen.sort().join("\n");
}

/** A developer's machine with much that must not be touched, and an agent that is not to be trusted. */
async function laptop() {
  const temp = await tempDir();
  const ob = temp.join("ob"), ws = temp.join("ws"), home = temp.join("home");
  for (const folder of [`${ob}/server`, `${ob}/rbs`, `${ws}/src`, `${home}/.ssh`]) {
    Deno.mkdirSync(folder, { recursive: true });
  }
  for (const file of [`${ob}/server/server.pid.txt`, `${ob}/lock`, `${ws}/src/main.cc`, `${ws}/BUILD`]) {
    Deno.writeTextFileSync(file, "mine");
  }
  Deno.writeTextFileSync(`${home}/.ssh/id`, "x");
  Deno.writeTextFileSync(`${home}/.bashrc`, "mine", { mode: 0o600 });
  Deno.symlinkSync("/usr/lib", `${ob}/install`);
  Deno.symlinkSync("src", `${ws}/link`);
  const untouched = () =>
    canary(temp.path, (path) => {
      if (path === `${ws}/MODULE.bazel.lock` || path === `${ob}/rbs`) return true;
      if (path.startsWith(`${ws}/bazel-`)) return Deno.readLinkSync(path).startsWith(`${ob}/`);
      return path.startsWith(`${ob}/`) && !/^(server|lock|install)/.test(path.slice(ob.length + 1));
    });
  const before = untouched();
  const agent = new OutputsAgent();
  const it = {
    ob,
    ws,
    home,
    agent,
    out: (name: string) => `${ob}/execroot/_main/${name}`,
    outputsHome: new OutputsHome({ outputBase: ob, workspace: ws }),
    take: (parts: AsyncIterable<Uint8Array> | Uint8Array[], signal = new AbortController().signal) =>
      it.outputsHome.take(parts, { link: agent.link, say: () => {}, signal, cleans: true }),
    /** The agent gives this for anything that it is asked for. */
    gives(...messages: Uint8Array[]) {
      agent.script = async (_, call) => {
        for (const message of messages) await call.write(message);
        call.end();
      };
    },
    /** The manifest is refused by name, and nothing happens on this machine. */
    async refuses(parts: Uint8Array[], why: RegExp) {
      await assert.rejects(it.take(parts), (e: RbsError) => {
        assert.equal(e.exitCode, 37, String(e.stack));
        assert.match(e.message, why);
        return true;
      });
      it.isUntouched();
    },
    isUntouched: () => assert.equal(untouched(), before),
    async [Symbol.asyncDispose]() {
      agent[Symbol.dispose]();
      await temp[Symbol.asyncDispose]();
    },
  };
  return it;
}

const nothing = (folder: string) => assert.throws(() => Deno.lstatSync(folder), Deno.errors.NotFound);

Deno.test("paths that lead elsewhere are refused before anything is written", async () => {
  await using t = await laptop();
  const good = { path: t.out("good") };
  for (
    const path of [
      `${t.ob}/../home/.bashrc`,
      `${t.ob}/execroot/../../home/.bashrc`,
      `${t.home}/.bashrc`,
      "/etc/passwd",
      "relative",
      "",
      `${t.ob}//x`,
      `${t.ob}/./x`,
      `${t.ob}/x/`,
      `${t.ob}/server/server.pid.txt`,
      `${t.ob}/lock`,
      `${t.ob}/install`,
      `${t.ob}/rbs/outputs.index`,
      t.ob,
      `${t.ws}/BUILD`,
      `${t.ws}/new.cc`,
      t.out("n\0ul"),
      t.out("n".repeat(256)),
      t.out("d/".repeat(3000) + "x"),
    ]
  ) await t.refuses(outputs(good, { path }), /./);
  nothing(`${t.ob}/execroot`);
});

Deno.test("entries that are no file, folder or link are refused, as are those that are there twice or have no digest", async () => {
  await using t = await laptop();
  for (const kind of [0, 4, 5, 6, 1000]) await t.refuses(outputs({ path: t.out("x"), kind }), /./);
  await t.refuses(outputs({ path: t.out("x") }, { path: t.out("x"), target: t.home }), /twice/);
  await t.refuses(outputs({ path: t.out("x"), digest: new Uint8Array() }), /./);
  await t.refuses(outputs({ path: t.out("x"), digest: new Uint8Array(31) }), /./);
  await t.refuses([Uint8Array.of(255, 255, 255)], /./);
  await t.refuses([encodeFields([[3, 1]])], /not sent/);
  nothing(`${t.ob}/execroot`);
});

Deno.test("nothing is written through a symlink, be it of the same manifest or of one before", async () => {
  await using t = await laptop();
  t.gives(batch([[1, entry({ path: t.out("l/.bashrc").slice(1) })], [2, "x"], [5, sha256("x")]]));
  await t.refuses(outputs({ path: t.out("l"), target: t.home }, { path: t.out("l/.bashrc") }), /through a symlink/);
  await t.refuses(outputs({ path: t.out("l/.bashrc") }, { path: t.out("l"), target: t.home }), /through a symlink/);
  await t.take(outputs({ path: t.out("l"), target: t.home }));
  await t.take(outputs({ path: t.out("l/.bashrc") }));
  assert.equal(Deno.readTextFileSync(t.out("l/.bashrc")), "x");
  assert.ok(Deno.lstatSync(t.out("l")).isDirectory, "the link gave way");
  t.isUntouched();

  await t.take(outputs({ path: t.out("l"), target: `${t.home}/.ssh` }));
  t.agent.asked.length = 0;
  t.gives(batch([[1, entry({ path: t.out("l/id").slice(1), mode: 0o777 })], [2, "x"], [5, sha256("x")]]));
  await t.take(outputs({ path: t.out("l/id"), mode: 0o777 }));
  assert.equal(t.agent.asked.length, 1, "what stands behind a link is not taken for an output");
  await t.take(outputs({ path: t.out("t"), target: t.home }));
  await t.take(outputs({ path: t.out("t"), kind: KINDS.directory }));
  assert.ok(Deno.lstatSync(t.out("t")).isDirectory, "nor is a folder emptied that a link leads to");
  const workspace = t.out("").slice(0, -1);
  await t.refuses(outputs({ path: workspace, target: t.home }), /is a folder for outputs, and no symlink/);
  // As an older RBS let it come.
  const plant = () => {
    Deno.removeSync(workspace, { recursive: true });
    Deno.symlinkSync(t.home, workspace);
  };
  plant();
  await t.take([encodeFields([[4, 1]])]);
  Deno.mkdirSync(workspace);
  plant();
  await t.outputsHome.expunge({ say: () => {} });
  t.isUntouched();
});

Deno.test("a convenience symlink never takes a file's place, and never leads out of the output base", async () => {
  await using t = await laptop();
  await t.refuses(outputs({ path: `${t.ws}/bazel-bin`, target: "/etc" }), /does not lead/);
  await t.refuses(outputs({ path: `${t.ws}/bazel-bin`, target: `${t.ob}/../home` }), /does not lead/);
  await t.refuses(outputs({ path: `${t.ws}/bazel-bin`, target: `${t.ob}/server` }), /does not lead/);
  for (const name of ["BUILD", "src", "link", "src/main.cc", "link/bazel-bin", ".bazelrc", ".git", "tools/bazel"]) {
    await t.take(outputs({ path: `${t.ws}/${name}`, target: t.out("x") }));
    t.isUntouched();
  }
});

Deno.test("modes that would give rights away are not kept", async () => {
  await using t = await laptop();
  t.gives(batch([[1, entry({ path: t.out("x").slice(1), mode: 0o7777 })], [2, "x"], [5, sha256("x")]]));
  await t.take(outputs({ path: t.out("x"), mode: 0o7777 }, { path: t.out("d"), kind: KINDS.directory, mode: 0o7000 }));
  assert.equal(Deno.lstatSync(t.out("x")).mode! & 0o7777, 0o755);
  assert.equal(Deno.lstatSync(t.out("d")).mode! & 0o7777, 0o500);
});

Deno.test("content that is not what was promised is refused, and no file appears", async () => {
  await using t = await laptop();
  const x = t.out("x"), at = x.slice(1);
  const wanted = outputs({ path: x });
  for (
    const [what, ...messages] of [
      ["other content", batch([[1, entry({ path: at })], [2, "y"], [5, sha256("x")]])],
      ["another digest", batch([[1, entry({ path: at, digest: sha256("y") })], [2, "y"], [5, sha256("y")]])],
      ["more content", batch([[1, entry({ path: at })], [2, "xx"], [5, sha256("x")]])],
      ["less content", batch([[1, entry({ path: at })], [5, sha256("x")]])],
      ["another file", batch([[1, entry({ path: `${at}y` })], [2, "x"], [5, sha256("x")]])],
      ["a file outside", batch([[1, entry({ path: `${t.home}/.bashrc`.slice(1) })], [2, "x"], [5, sha256("x")]])],
      ["a link in its place", batch([[1, entry({ path: at, target: `${t.home}/.bashrc` })]])],
      ["a folder in its place", batch([[1, entry({ path: at, kind: KINDS.directory })]])],
      ["a device in its place", batch([[1, entry({ path: at, kind: 5 })]])],
      ["a part of nothing", batch([[2, "x"], [5, sha256("x")]])],
      ["a removal", batch([[6, `${t.home}/.bashrc`.slice(1)]])],
      ["a copy", batch([[1, entry({ path: at })], [7, `${t.home}/.ssh/id`.slice(1)]])],
      ["another offset", batch([[1, entry({ path: at })], [4, 1], [5, sha256("x")]])],
      ["nothing"],
      ["an empty batch", new Uint8Array()],
      ["garbage", Uint8Array.of(255, 1, 2, 3)],
      ["a file in a file", batch([[1, entry({ path: at })], [3, 1], [2, "x"]], [[1, entry({ path: at })], [2, "x"]])],
      ["a lie about its size", encodeFields([[2, 5], [3, encodeFields([[1, encodeFields([[2, "x"]])]])]])],
      ["twice", ...[1, 2].map(() => batch([[1, entry({ path: at })], [2, "x"], [5, sha256("x")]]))],
    ] as [string, ...Uint8Array[]][]
  ) {
    t.gives(...messages);
    await assert.rejects(t.take(wanted), (e: RbsError) => e.exitCode === 37, what);
    if (what !== "twice") nothing(x);
  }
  t.isUntouched();
});

Deno.test("a stream that never ends, and one that unpacks to gigabytes, are cut off", async () => {
  await using t = await laptop();
  const x = t.out("x").slice(1);
  const parts: Record<string, Uint8Array> = {
    "content": batch([[2, Buffer.alloc(100_000)], [3, 1]]),
    "parts without content": batch([[3, 1]]),
    "empty batches": batch(),
  };
  for (const [what, part] of Object.entries(parts)) {
    t.agent.script = async (_, call) => {
      await call.write(batch([[1, entry({ path: x, size: 1 << 20 })], [2, "x"], [3, 1]]));
      while (!call.gone.aborted) await call.write(part);
    };
    await assert.rejects(t.take(outputs({ path: `/${x}`, size: 1 << 20 })), (e: RbsError) => e.exitCode === 37, what);
  }
  const gigabyte = Buffer.alloc(1 << 30);
  for (const claimed of [1 << 30, 4 << 20, 1]) {
    t.gives(encodeFields([[1, 1], [2, claimed], [3, zstdCompressSync(gigabyte)]]));
    await assert.rejects(t.take(outputs({ path: `/${x}` })), (e: RbsError) => e.exitCode === 37);
  }
  nothing(`/${x}`);
});

Deno.test("a manifest of millions of entries, or one that never ends, is cut off", async () => {
  await using t = await laptop();
  let sent = 0;
  const endless = async function* () {
    for (;; sent++) yield await Promise.resolve(encodeFields([[15, Buffer.alloc(1 << 20)]]));
  };
  await assert.rejects(t.take(endless()), /larger than 268435456 bytes/);
  assert.ok(sent < 300);
  // The same while the command still runs, also for messages with nothing in them.
  for (const part of [Buffer.alloc(1 << 20), new Uint8Array()]) {
    const kept = new ManifestParts(64 << 20);
    const keepAll = () => {
      for (sent = 0;; sent++) kept.add(part);
    };
    assert.throws(keepAll, (e: RbsError) => e.exitCode === 37 && /larger than 67108864 bytes/.test(e.message));
    assert.ok(sent < 300_000, `${sent} were kept`);
    assert.equal(kept.length, 0);
  }
  const many = async function* () {
    for (sent = 0;; sent++) {
      const lies = Array.from({ length: 100 }, (_, i) => ({ path: t.out(`${sent}-${i}`), target: "x" }));
      yield await Promise.resolve(outputs(...lies)[0]);
    }
  };
  const allowed = new AllowedPaths({ outputBase: t.ob, workspace: t.ws });
  const limits = { entries: 1_000, bytes: 1 << 30 };
  await assert.rejects(
    readManifest(many(), allowed, new AbortController().signal, { limits }),
    /more than 1000 entries/,
  );
  assert.equal(sent, 10);
  nothing(`${t.ob}/execroot`);
});

Deno.test("warnings cannot steer the terminal", async () => {
  await using t = await laptop();
  const said: string[] = [];
  await t.outputsHome.take([encodeFields([[5, "\u001b[2Jwiped\nrbs: all is well"]])], {
    link: t.agent.link,
    say: (line) => said.push(line),
    signal: new AbortController().signal,
  });
  assert.deepEqual(said, [String.raw`rbs: warning: "\u001b[2Jwiped\nrbs: all is well"` + "\n"]);
});

Deno.test("whatever an agent sends, nothing outside of the outputs is touched", async () => {
  await using t = await laptop();
  const dice = random(20_261_124);
  const one = <T>(list: readonly T[]) => list[dice(list.length)];
  const roots = () => one([t.ob, t.ob, t.ob, t.ob, t.ws, t.home, "", "/", "/tmp", t.ob.slice(1)]);
  const names = () =>
    one(["execroot", "a", "b", "b", "c", "..", ".", "", "server", "rbs", "lock", "bazel-bin", ".ssh"]);
  const path = () => `${roots()}/${Array.from({ length: 1 + dice(4) }, names).join("/")}`;
  // Most manifests shall be good enough to be taken.
  const likely = () =>
    `${t.ob}/${one(["execroot", "external", "a"])}/${
      Array.from({ length: 1 + dice(3) }, () => one(["a", "b", "c"])).join("/")
    }`;
  const lie = (): Lie => ({
    path: dice(8) ? likely() : dice(3) ? `${t.ws}/${one(["bazel-bin", "bazel-out", "BUILD"])}` : path(),
    ...one<Partial<Lie>>([
      {},
      {},
      { target: one([t.home, `${t.home}/.bashrc`, t.ws, t.ob, `${t.ob}/server`, "..", "../..", "/", `${t.ob}/a`]) },
      { target: `${t.ob}/execroot/a` },
      { kind: KINDS.directory, mode: one([0o755, 0o555, 0o500]) },
      { kind: dice(6) },
      { size: dice(3) },
      { mode: dice(0o10000) },
      { digest: sha256(one(["x", "y", "mine"])) },
    ]),
  });
  const answer: FetchScript = async (request, call) => {
    for (const file of request.files) {
      if (dice(50) === 0) return t.agent.cut();
      const path = dice(30) ? new TextDecoder().decode(file.path) : likely();
      const fields: Fields = [[1, entry({ path: path.slice(1) })], [2, one(["x", "x", "x", "x", "y", ""])]];
      if (dice(40) === 0) fields.push([6, path]);
      if (dice(40) === 0) fields.push([7, path]);
      if (dice(40) === 0) fields.push([3, 1]);
      await call.write(batch([...fields, [5, sha256("x")]]));
    }
    call.end();
  };
  t.agent.script = answer;
  let taken = 0;
  for (let i = 0; i < 800; i++) {
    const lies = outputs(...Array.from({ length: 1 + dice(4) }, lie));
    if (dice(20) === 0) lies.push(encodeFields([[4, 1]]));
    // An agent that is slow to be found again need not be waited for.
    const signal = AbortSignal.timeout(2_000);
    await t.take(lies, signal).then(() => taken++, (e) => assert.ok(e.exitCode > 1, String(e.stack)));
    if (dice(40) === 0) await t.outputsHome.expunge({ say: () => {} });
    t.isUntouched();
  }
  assert.ok(taken > 20, `${taken} were taken`);
});
