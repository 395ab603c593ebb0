/**
 * The workspace there and the outputs home: against `rsync -a` from and to the same places, all on one tmpfs, by programs
 * that talk over loopback; and a build with nothing to do over a link, against the same without RBS.
 *
 * The files are in a mount namespace of their own, which is this file as a program: they go with it.
 */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { encodeEntry } from "../../proto/tree/entry.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { digestFile } from "../../proto/tree/read.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { PROXY, v8Option } from "../../tools/permissions.ts";
import type { Bazel } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { ROOT } from "../support/repository.ts";
import { output, start } from "../support/run.ts";
import { removeTree, tempDir } from "../support/temp_dir.ts";
import { type TwoMachines, twoMachines } from "../support/two_machines.ts";
import { type TestWorkspace, testWorkspace } from "../support/workspace.ts";
import { interleaved, median, ms, type Result } from "./report.ts";
import type { Done } from "./sync_proxy.ts";
import { LineReader } from "../../proto/base/line_reader.ts";

const FOLDERS = 2_000, FILES = 50, FILE_BYTES = 10_000;
/** Files that a checkout exchanges, whole folders of them. */
const CHECKED_OUT = 5_000;
const OUTPUTS = [{ files: 40, bytes: 4_000_000 }, { files: 2_000, bytes: 20_000 }];
const TREE_BYTES = FOLDERS * FILES * FILE_BYTES;
const OUTPUT_BYTES = OUTPUTS.reduce((sum, { files, bytes }) => sum + files * bytes, 0);
/** The tree, two copies, what is removed meanwhile, and the programs. */
const MEMORY = 6e9;
/** One round trip of the link. Milliseconds. */
const RTT = 20;
/** Servers on each side: one JVM is faster than the next by more than what is measured. */
const SERVERS = 8;
/** The same where nothing but the machine is between them. */
const SYNCED_SERVERS = 4, SYNCED_FILES = 20_000;
/** Builds of each server that do not count: a JVM compiles its code for that long. */
const WARM_UPS = 15;

/** Runs this file as a program in a mount namespace with a tmpfs. */
export async function benchFiles(say: (text: string) => void): Promise<Result[]> {
  const available = Number(/MemAvailable:\s+(\d+)/.exec(await Deno.readTextFile("/proc/meminfo"))![1]) * 1024;
  if (available < MEMORY) {
    throw new Error(`The benchmark of sync wants ${MEMORY / 1e9} GB of free memory for its files; stop something.`);
  }
  await using directory = await tempDir("rbs-bench-");
  const user = Deno.uid() === 0 ? [] : ["--user", "--map-root-user"];
  const script = 'mount -t tmpfs -o size=6g rbs "$0" && cd "$0" && exec "$@"';
  const self = [Deno.execPath(), "run", "--allow-all", import.meta.filename!, directory.path];
  const child = new Deno.Command("unshare", {
    args: [...user, "--mount", "sh", "-c", script, directory.path, ...self],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const results: Result[] = [];
  for await (const line of new LineReader(child.stdout)) {
    if (line.startsWith("{")) results.push(JSON.parse(line));
    else say(line);
  }
  const { success } = await child.status;
  if (!success) throw new Error("The benchmark of sync has failed.");
  return results;
}

/** A child program that answers lines by lines. */
class Peer implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #answers: LineReader;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;

  constructor(program: string, args: readonly string[], flags: readonly string[] = []) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-all", ...flags, join(ROOT, "tests/bench", program), ...args],
      env: { MALLOC_ARENA_MAX: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#writer = this.#child.stdin.getWriter();
    this.#answers = new LineReader(this.#child.stdout);
  }

  /** Its next line. */
  async answer(): Promise<string> {
    const line = await this.#answers.next();
    if (line === undefined) throw new Error("A program of the benchmark has ended.");
    return line;
  }

  async ask(question: string): Promise<Done> {
    await this.#writer.write(new TextEncoder().encode(`${question}\n`));
    return JSON.parse(await this.answer());
  }

  async [Symbol.asyncDispose]() {
    await this.#writer.close().catch(() => {});
    await this.#child.status;
    this.#answers.close();
  }
}

/** An agent and a proxy. */
class Pair implements AsyncDisposable {
  private constructor(readonly agent: Peer, readonly port: string, readonly proxy: Peer) {}

  static async start(storage: string, workspace: string, outputBase: string, ...more: string[]): Promise<Pair> {
    await Deno.mkdir(storage, { recursive: true });
    await Deno.mkdir(outputBase, { recursive: true });
    const agent = new Peer("sync_agent.ts", [storage, outputBase]);
    const port = await agent.answer();
    return new Pair(agent, port, new Peer("sync_proxy.ts", [port, workspace, outputBase, ...more], v8Option(PROXY)));
  }

  async [Symbol.asyncDispose]() {
    await this.proxy[Symbol.asyncDispose]();
    await this.agent[Symbol.asyncDispose]();
  }
}

/** What the program measures: it prints what it is at, and results as lines of JSON. */
async function measureFiles(folder: string) {
  const say = (text: string) => console.log(text);
  const report = (result: Result) => console.log(JSON.stringify(result));
  const at = (name: string) => join(folder, name);
  const [workspace, outputBase, storage, copy] = ["workspace", "output-base", "storage", "copy"].map(at);
  say("making 100,000 files");
  const pool = makePool();
  for (let i = 0; i < FOLDERS; i++) {
    const path = join(workspace, `area${i % 40}`, `package${i}`);
    Deno.mkdirSync(path, { recursive: true });
    for (let j = 0; j < FILES; j++) Deno.writeFileSync(join(path, `file${j}.cc`), slice(pool, FILE_BYTES));
  }
  const rsync = async (...args: string[]) => {
    const began = performance.now();
    await output(["rsync", "-a", ...args], { timeout: 600_000 });
    return performance.now() - began;
  };

  const peaks: number[] = [];
  const [first, firstCopy, plainCopy] = await interleaved(3, 1, [
    async () => {
      for (const path of [storage, outputBase]) await removeTree(path);
      await using pair = await Pair.start(storage, workspace, outputBase);
      const { took, peak } = await pair.proxy.ask("barrier");
      peaks.push(peak);
      return took;
    },
    async () => {
      await removeTree(copy);
      return await rsync(`${workspace}/`, copy);
    },
    async () => {
      await removeTree(at("plain"));
      const began = performance.now();
      await output(["cp", "-a", workspace, at("plain")], { timeout: 600_000 });
      return performance.now() - began;
    },
  ], (round) => say(`initial sync, round ${round}`));
  await removeTree(at("plain"));
  const speed = (bytes: number, took: number) => `${(bytes / took / 1e3).toFixed(0)} MB/s`;
  report({
    what: "initial sync of 100,000 files, 1 GB",
    measured: `rsync ${speed(TREE_BYTES, median(firstCopy))}, RBS ${speed(TREE_BYTES, median(first))}, ratio ${
      (median(firstCopy) / median(first)).toFixed(2)
    } (cp -a, one process: ${speed(TREE_BYTES, median(plainCopy))})`,
    target: "ratio ≥ 1.00",
    reached: median(first) <= median(firstCopy),
  });
  report({
    what: "most memory of the proxy meanwhile",
    measured: `${median(peaks).toFixed(0)} MB`,
    target: "≤ 200 MB",
    reached: median(peaks) <= 200,
  });

  {
    await using pair = await Pair.start(storage, workspace, outputBase);
    await pair.proxy.ask("barrier");
    const barrier = async () => (await pair.proxy.ask("barrier")).took;
    // Watching 2,000 folders begins behind the first barriers.
    const [unchanged] = await interleaved(50, 10, [barrier], (round) => say(`barrier, round ${round}`));
    report({
      what: "barrier, nothing changed",
      measured: ms(median(unchanged)),
      target: "≤ 5 ms",
      reached: median(unchanged) <= 5,
    });
    const [one, oneCopy] = await interleaved(9, 1, [
      async () => {
        await Deno.writeFile(join(workspace, "area1/package1/file1.cc"), slice(pool, FILE_BYTES));
        return await barrier();
      },
      async () => {
        await Deno.writeFile(join(workspace, "area2/package2/file2.cc"), slice(pool, FILE_BYTES));
        return await rsync(`${workspace}/`, copy);
      },
    ], (round) => say(`one changed file, round ${round}`));
    const ratio = median(oneCopy) / median(one);
    report({
      what: "barrier, one changed file",
      measured: `rsync ${ms(median(oneCopy))}, RBS ${ms(median(one))}, ${ratio.toFixed(0)} times as fast`,
      target: "≤ 20 ms + 1 RTT, ≥ 20 times as fast",
      reached: median(one) <= 20 && ratio >= 20,
    });
    // The same files each time; what the one has copied the other copies as well, where nobody measures.
    const checkOut = () => {
      for (let i = 1; i < FOLDERS; i += FOLDERS / CHECKED_OUT * FILES) {
        const path = join(workspace, `area${i % 40}`, `package${i}`);
        for (let j = 0; j < FILES; j++) {
          const file = join(path, `file${j}.cc`);
          Deno.removeSync(file);
          Deno.writeFileSync(file, slice(pool, FILE_BYTES));
        }
      }
    };
    const [checkedOut, checkedOutCopy] = await interleaved(7, 1, [
      async () => {
        checkOut();
        const took = await barrier();
        await rsync(`${workspace}/`, copy);
        return took;
      },
      async () => {
        checkOut();
        const took = await rsync(`${workspace}/`, copy);
        await barrier();
        return took;
      },
    ], (round) => say(`5,000 files checked out, round ${round}`));
    const checkedOutRatio = median(checkedOut) / median(checkedOutCopy);
    report({
      what: "barrier after a checkout of 5,000 files",
      measured: `rsync ${ms(median(checkedOutCopy))}, RBS ${ms(median(checkedOut))}, ratio ${
        checkedOutRatio.toFixed(2)
      }`,
      target: "ratio ≤ 1.00",
      reached: checkedOutRatio <= 1,
    });
  }
  {
    await using pair = await Pair.start(storage, workspace, outputBase, "unwatched");
    const scan = async () => (await pair.proxy.ask("barrier")).took;
    const [scanned, scannedCopy] = await interleaved(
      9,
      2,
      [scan, () => rsync("-n", `${workspace}/`, copy)],
      (round) => say(`full scan, round ${round}`),
    );
    const ratio = median(scanned) / median(scannedCopy);
    report({
      what: "barrier by a full scan, nothing changed",
      measured: `rsync -n ${ms(median(scannedCopy))}, RBS ${ms(median(scanned))}, ratio ${ratio.toFixed(2)}`,
      target: "ratio ≤ 1.00",
      reached: ratio <= 1,
    });

    const message = makeOutputs(pool, join(storage, "out"), outputBase);
    await Deno.writeFile(at("outputs"), message);
    // An agent makes digests once more of what was written in the same second.
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    await pair.agent.ask(join(storage, "out"));
    const here = at("home");
    // The proxy of a laptop has brought outputs home before: its code is compiled.
    const [home, homeCopy] = await interleaved(9, 3, [
      async () => {
        // Where the manifest says, which is the developer's own output base.
        await removeTree(outputBase);
        await Deno.mkdir(outputBase);
        return (await pair.proxy.ask(`home ${outputBase} ${at("outputs")}`)).took;
      },
      async () => {
        await removeTree(here);
        return await rsync(join(storage, "out/"), here);
      },
    ], (round) => say(`outputs, round ${round}`));
    const homeRatio = median(homeCopy) / median(home);
    report({
      what: "200 MB of outputs home",
      measured: `rsync ${speed(OUTPUT_BYTES, median(homeCopy))}, RBS ${speed(OUTPUT_BYTES, median(home))}, ratio ${
        homeRatio.toFixed(2)
      }`,
      target: "ratio ≥ 0.80",
      reached: homeRatio >= 0.8,
    });
  }
}

/** Makes outputs in an agent's storage, and the Outputs message that names them. */
function makeOutputs(pool: Uint8Array<ArrayBuffer>, storage: string, outputBase: string): Uint8Array {
  const below = "execroot/bench/bazel-out/k8-fastbuild/bin";
  const entries = OUTPUTS.flatMap(({ files, bytes }) =>
    Array.from({ length: files }, (_, i) => {
      const name = `${below}/${bytes}/package${i % 50}/output${i}.o`;
      const path = join(storage, name);
      Deno.mkdirSync(dirname(path), { recursive: true });
      Deno.writeFileSync(path, slice(pool, bytes), { mode: 0o555 });
      const { size, mtime } = Deno.statSync(path);
      const digest = digestFile(localFiles, path);
      const kind = "file" as const;
      return encodeEntry({ path: `${outputBase}/${name}`, kind, mode: 0o555, size, mtimeMs: mtime!.getTime(), digest });
    })
  );
  const manifest = createHash("sha256");
  for (const entry of entries) manifest.update(entry);
  return encodeFields([...entries.map((entry): [number, Uint8Array] => [1, entry]), [2, manifest.digest()]]);
}

/** 64 MB that look like source: words, some of them rare. */
function makePool(): Uint8Array<ArrayBuffer> {
  const words = Array.from({ length: 5_000 }, () => Math.random().toString(36).slice(2, 4 + Math.random() * 8));
  const line = () => Array.from({ length: 12 }, () => words[Math.floor(Math.random() ** 2 * words.length)]).join(" ");
  const text = new TextEncoder().encode(Array.from({ length: 20_000 }, line).join("\n"));
  const pool = new Uint8Array(64 << 20);
  for (let start = 0; start < pool.length; start += text.length) {
    pool.set(text.subarray(0, pool.length - start), start);
  }
  return pool;
}

/** Some of it, never the same. */
function slice(pool: Uint8Array<ArrayBuffer>, bytes: number): Uint8Array<ArrayBuffer> {
  const start = Math.floor(Math.random() * (pool.length - bytes));
  const content = pool.slice(start, start + bytes);
  crypto.getRandomValues(content.subarray(0, 16));
  return content;
}

/** What a byte takes there and back over a link, in milliseconds: the median of many, between two small programs. */
async function roundTrip({ laptop, cloud }: TwoMachines): Promise<number> {
  const echo = `const listener = Deno.listen({ hostname: "${cloud.address}", port: 0 });
    console.log("port", listener.addr.port);
    for await (const c of listener) c.setNoDelay(), void c.readable.pipeTo(c.writable).catch(() => {});`;
  await using server = start([Deno.execPath(), "eval", echo], { on: cloud });
  const [, port] = await server.says(/port (\d+)/);
  const ask = `const c = await Deno.connect({ hostname: "${cloud.address}", port: ${port} }), byte = new Uint8Array(1);
    c.setNoDelay();
    for (let i = 0; i < 60; i++) {
      const began = performance.now();
      await c.write(byte);
      await c.read(byte);
      console.log(performance.now() - began);
    }`;
  const times = await output([Deno.execPath(), "eval", ask], { on: laptop });
  server.kill("SIGKILL");
  await server.finished.catch(() => {});
  return median(times.trim().split("\n").map(Number));
}

/** A build with nothing to do of a workspace with many files: synced to an agent on this machine, and without RBS. */
export async function benchSynced(bazel: Bazel, say: (text: string) => void): Promise<Result[]> {
  await using cluster = await startCluster({ args: ["--workspace=synced"] });
  await using stack = new AsyncDisposableStack();
  const through = { startupOptions: [cluster.serverJavabase], env: cluster.env };
  const workspaces: TestWorkspace[] = [];
  for (let i = 0; i < 2 * SYNCED_SERVERS; i++) {
    const workspace = stack.use(await testWorkspace(bazel, i % 2 ? through : {}));
    workspaces.push(workspace);
    for (let n = 0; n < SYNCED_FILES / FILES; n++) {
      const path = join(workspace.path, `data${n % 20}`, `package${n}`);
      Deno.mkdirSync(path, { recursive: true });
      Deno.writeTextFileSync(join(path, "BUILD"), 'filegroup(name = "all", srcs = glob(["*.txt"]))\n');
      for (let j = 0; j < FILES; j++) Deno.writeTextFileSync(join(path, `file${j}.txt`), `${n} ${j}\n`);
    }
  }
  const times = await interleaved(
    15,
    WARM_UPS,
    workspaces.map(noOpBuild),
    (round) => say(`no-op build of ${SYNCED_FILES} files, round ${round}`),
  );
  const [a, b] = [0, 1].map((side) => times.filter((_, i) => i % 2 === side).flat());
  const added = median(b) - median(a);
  return [{
    what: `no-op build, synced, ${SYNCED_FILES} files`,
    measured: `direct ${ms(median(a))}, RBS ${ms(median(b))}, added ${ms(added)}`,
    target: "added ≤ 5 ms",
    reached: added <= 5,
  }];
}

/** A build that must go well. @returns milliseconds */
function noOpBuild(workspace: TestWorkspace): () => Promise<number> {
  return async () => {
    const { code, stderr, took } = await workspace.run(["build", "//..."]);
    if (code !== 0) throw new Error(`the workspace does not build:\n${stderr}`);
    return took;
  };
}

/** A build with nothing to do: on the laptop of two machines, with and without RBS. */
export async function benchLink(bazel: Bazel, say: (text: string) => void): Promise<Result[]> {
  await using machines = await twoMachines({ delayMs: RTT / 2, loss: 0 });
  const { laptop: on } = machines;
  await using cluster = await startCluster({ machines });
  await using stack = new AsyncDisposableStack();
  const through = { on, startupOptions: [cluster.serverJavabase], env: cluster.env };
  // By turns: direct, RBS, direct, …
  const workspaces: TestWorkspace[] = [];
  for (let i = 0; i < 2 * SERVERS; i++) {
    workspaces.push(stack.use(await testWorkspace(bazel, i % 2 ? through : { on })));
  }
  const sides = workspaces.map(noOpBuild);
  const times = await interleaved(15, WARM_UPS, sides, (round) => say(`no-op build over a link, round ${round}`));
  const [a, b] = [0, 1].map((side) => times.filter((_, i) => i % 2 === side).flat());
  const added = median(b) - median(a), rtt = await roundTrip(machines);
  return [{
    what: `no-op build on a link of ${RTT} ms RTT`,
    measured: `direct ${ms(median(a))}, RBS ${ms(median(b))}, added ${ms(added)} (a byte there and back: ${ms(rtt)})`,
    target: "added ≤ 1 RTT + 5 ms",
    reached: added <= rtt + 5,
  }];
}

if (import.meta.main) await measureFiles(Deno.args[0]);
