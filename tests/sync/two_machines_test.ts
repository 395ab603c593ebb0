/**
 * Two machines that share nothing but a link: what the developer just saved is what gets built, what was built is where
 * the developer expects it, and nothing else travels. What is as with the stock client, the mirror test compares there.
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { processesNaming } from "../mirror/support/processes.ts";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { type Cluster, startCluster } from "../support/cluster.ts";
import { type Finished, output, run, type RunOptions } from "../support/run.ts";
import { type TwoMachines, twoMachines } from "../support/two_machines.ts";
import { type TestWorkspace, testWorkspace } from "../support/workspace.ts";

/** More bytes than the messages of a command are. */
const MESSAGES = 64_000;

const FILES = {
  "looking/BUILD": String.raw`
# The workspace as the agent has it, from outside of any sandbox.
genrule(
    name = "tree",
    outs = ["tree.txt"],
    cmd = "cd \"$$TREE\" && find . -path ./looking -prune -o -name 'bazel-*' -prune -o " +
          "-printf '%y %m %s %Ts %p -> %l\\n' > $$OLDPWD/$@",
    tags = ["local", "manual"],
)

# What an action knows and can read of the developer's.
genrule(
    name = "environment",
    outs = ["environment.txt"],
    cmd = "env > $@; cat $$CANARIES >> $@ 2>&1 || true",
    tags = ["local", "manual"],
)
`,
  "showing/BUILD": `
load("@rules_shell//shell:sh_binary.bzl", "sh_binary")

sh_binary(
    name = "show",
    srcs = ["show.sh"],
    data = ["data.txt", ":made"],
)

genrule(name = "made", outs = ["made.txt"], cmd = "echo made there > $@")
`,
  "showing/show.sh": `#!/bin/bash
printf 'on %s with %s and VALUE=%s\n' "$(hostname -I | tr -d ' ')" "$*" "$VALUE"
cat "$0.runfiles/rbs_cpp/showing/data.txt" "$0.runfiles/rbs_cpp/showing/made.txt" -
`,
  "showing/data.txt": "data from here\n",
};

interface Pair extends AsyncDisposable {
  machines: TwoMachines;
  cluster: Cluster;
  workspace: TestWorkspace;
  /** Runs `bazel ARG…`, which must end well. */
  bazel(args: readonly string[], options?: RunOptions): Promise<Finished>;
  /** Runs a script on the laptop, in the workspace, which must end well. */
  sh(script: string, options?: RunOptions): Promise<string>;
  /** The absolute path of something in the workspace. */
  path(...names: string[]): string;
}

async function makePair(bazel: Bazel): Promise<Pair> {
  await using cleanup = new AsyncDisposableStack();
  const machines = cleanup.use(await twoMachines());
  console.log(`The packets of seed ${machines.link.seed} are lost (RBS_TEST_SEED).`);
  const cluster = cleanup.use(await startCluster({ machines, env: { RBS_BAZEL: bazel.path } }));
  const { laptop: on } = machines;
  const workspace = cleanup.use(
    await testWorkspace(bazel, { on, env: cluster.env, startupOptions: [cluster.serverJavabase] }),
  );
  const path = (...names: string[]) => join(workspace.path, ...names);
  for (const [file, text] of Object.entries(FILES)) {
    await Deno.mkdir(dirname(path(file)), { recursive: true });
    await Deno.writeTextFile(path(file), text, { mode: 0o755 });
  }
  const all = cleanup.move();
  return {
    machines,
    cluster,
    workspace,
    path,
    async bazel(args, options) {
      const finished = await workspace.run(args, options);
      assert.equal(finished.code, 0, finished.stderr);
      return finished;
    },
    sh: (script, options) => output(["bash", "-ec", script], { on, cwd: workspace.path, ...options }),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

const { found } = await findBazels();
const pairs = new Map<Bazel, Promise<Pair>>();

Deno.test.afterAll(async () => {
  for (const pair of pairs.values()) await (await pair)[Symbol.asyncDispose]();
});

/** A case for each Bazel. The cases of one Bazel share two machines and a workspace. */
function test(name: string, fn: (pair: Pair) => Promise<void>) {
  for (const bazel of found) {
    const run = async () => {
      if (!pairs.has(bazel)) pairs.set(bazel, makePair(bazel));
      const pair = await pairs.get(bazel)!;
      try {
        await fn(pair);
      } finally {
        await pair.machines.link.set({ rate: 0 });
      }
    };
    // The machines outlive each of their tests.
    Deno.test({ name: `Bazel ${bazel.version}: ${name}`, fn: run, sanitizeOps: false, sanitizeResources: false });
  }
}

let looks = 0;

/** The workspace as the agent has it: a line for each name. */
async function treeThere({ bazel, path }: Pair): Promise<string[]> {
  await bazel(["build", `--action_env=TREE=${path()}`, `--action_env=LOOK=${looks++}`, "//looking:tree"]);
  return lines(await Deno.readFile(path("bazel-bin/looking/tree.txt")));
}

/** The same as the developer has it. */
async function treeHere({ machines: { laptop: on }, path }: Pair): Promise<string[]> {
  const others = ["-path", "./looking", "-prune", "-o", "-name", "bazel-*", "-prune", "-o"];
  const argv = ["find", ".", ...others, "-printf", String.raw`%y %m %s %Ts %p -> %l\n`];
  return lines((await run(argv, { on, cwd: path() })).stdoutBytes);
}

/** Without what is not kept: sizes and times of folders, times of links. */
function lines(bytes: Uint8Array): string[] {
  const text = new TextDecoder("latin1").decode(bytes).trimEnd().split("\n");
  return text.map((line) => line.replace(/^d (\d+) \d+ \d+/, "d $1").replace(/^(l \d+ \d+) \d+/, "$1")).sort();
}

/** What goes over the link meanwhile, in bytes. */
async function traffic({ machines: { link } }: Pair, act: () => Promise<unknown>) {
  const before = await link.count();
  await act();
  const after = await link.count();
  return { there: after.there.bytes - before.there.bytes, back: after.back.bytes - before.back.bytes };
}

// --- up

test("a first build, and all files are there as they are here", async (pair) => {
  await pair.bazel(["build", "//..."]);
  assert.match(await pair.sh("bazel-bin/hello Linus"), /Hello, Linus!/);
  assert.deepEqual(await treeThere(pair), await treeHere(pair));
});

test("what was just saved is what gets built", async ({ bazel, path, sh }) => {
  const file = path("data/names_in.txt");
  const before = await Deno.readTextFile(file);
  for (const name of ["Edsger", "Tony", "Barbara"]) {
    await Deno.writeTextFile(file, `${before}${name}\n`);
    await bazel(["build", "//:hello"]);
    assert.match(await sh("bazel-bin/hello"), new RegExp(`Hello, ${name}!`));
  }
  await Deno.writeTextFile(file, before);
});

const CHANGES = {
  "new things": String.raw`
    mkdir -p t/empty t/folder/deep; echo one > t/file; echo two > t/folder/two; echo > t/folder/deep/three
    : > t/nothing; head -c 3000000 /dev/urandom > t/large; echo '#!/bin/sh' > t/script; chmod 755 t/script
    ln -s file t/link; ln -s ../outside t/dangling; ln -s /etc/passwd t/absolute; ln -s folder t/to-folder
    echo x > "t/with space and 'quotes'"; echo x > t/größe-日本; echo x > t/$'two\nlines'`,
  "names that are no UTF-8": String.raw`
    echo raw > t/$'raw-\377\200'; mkdir t/$'folder-\376'; echo below > t/$'folder-\376'/file`,
  "other content": `
    echo more >> t/file; echo TWO > t/folder/two; printf x | dd of=t/large bs=1 seek=1000 conv=notrunc status=none`,
  "other modes": "chmod 644 t/script; chmod 755 t/file; chmod 700 t/folder; chmod 444 t/nothing",
  "other times": "touch -d '2001-02-03 04:05:06' t/file",
  "other names": "mv t/file t/File; mv t/folder t/moved; mv t/large t/moved/large2",
  "other types": `
    rm t/link; mkdir t/link; echo in > t/link/in; rm -r t/moved/deep; ln -s nowhere t/moved/deep
    rm t/dangling; echo now a file > t/dangling; rm -f t/nothing; ln -s File t/nothing`,
  "links that lead elsewhere": "ln -sfn moved t/absolute; ln -sfn ../data t/to-folder",
  "deletions": "rm -r t/link t/empty t/raw-* t/folder-* t/with*",
  "and all gone": "rm -r t",
};

test("every kind of change arrives", async (pair) => {
  for (const [what, script] of Object.entries(CHANGES)) {
    await pair.sh(script);
    assert.deepEqual(await treeThere(pair), await treeHere(pair), what);
  }
});

test("what .rbsignore names stays here, and .git", async (pair) => {
  const { path, sh } = pair;
  const names = async () => (await treeThere(pair)).map((line) => / (\.\/.*) -> /.exec(line)?.[1]);
  await sh(String.raw`
    mkdir -p .git ignored/below kept; for f in .git/HEAD ignored/below/x kept/{x.log,keep.log,y.txt}; do echo x > $f; done
    printf '/ignored\n*.log\n!keep.log\n' > .rbsignore`);
  const there = await names();
  for (const name of ["./kept/y.txt", "./kept/keep.log", "./.rbsignore"]) assert(there.includes(name), name);
  for (const name of ["./.git", "./ignored", "./kept/x.log"]) assert(!there.includes(name), name);
  await Deno.remove(path(".rbsignore"));
  assert((await names()).includes("./ignored/below/x"), "what is not ignored any more does not arrive");
  await sh("rm -r .git ignored kept");
});

test("a sync that takes more than a second says how far it is", async ({ machines, workspace, path }) => {
  await Deno.writeFile(path("large.bin"), randomBytes(6_000_000));
  await machines.link.set({ rate: 16e6 });
  await using build = workspace.start(["build", "//data:names"]);
  await build.says(/^rbs: syncing [\d,]+ of [\d,]+ files?, .* of .* MB/m);
  assert.equal((await build.finished).code, 0);
});

test("an agent that is started anew has the files already", async (pair) => {
  const { bazel, cluster, path } = pair;
  await Deno.writeFile(path("large.bin"), randomBytes(6_000_000));
  await bazel(["build", "//data:names"]);
  await cluster.stop();
  await cluster.restart();
  const { there } = await traffic(pair, () => bazel(["build", "//data:names"]));
  assert(there < 1_000_000, `${there} bytes went there`);
  await Deno.remove(path("large.bin"));
});

test("secrets stay here: the environment, the home directory, the keys", async ({ bazel, cluster, machines, workspace, path, sh }) => {
  const { cloud } = machines;
  const secret = `secret-${crypto.randomUUID()}`;
  const canaries = [join(workspace.env.HOME!, "canary"), join(machines.laptop.directory, "canary")];
  for (const canary of canaries) await Deno.writeTextFile(canary, secret);
  const key = join(cluster.state, "keys/local.token");
  const env = { API_TOKEN: secret, CANARIES: [...canaries, key].join(" ") };
  await bazel(["build", "--action_env=CANARIES", "//looking:environment"], { env });
  const seen = await Deno.readTextFile(path("bazel-bin/looking/environment.txt"));
  assert.match(seen, /^CANARIES=/m, "what --action_env names is not there");
  assert(!seen.includes(secret), seen);
  assert(!seen.includes((await output(["cat", key], { on: cloud })).trim()), "an action can read the key");

  const namespace = await Deno.readLink(cloud.network);
  for (const { pid, args } of await processesNaming(secret)) {
    assert.notEqual(await Deno.readLink(`/proc/${pid}/ns/net`).catch(() => ""), namespace, args.join(" "));
  }
  const { code, stdout } = await run(["grep", "-rlF", secret, cloud.directory], { on: cloud });
  assert.deepEqual([code, stdout], [1, ""]);
  await sh(`rm ${canaries.join(" ")}`);
});

// --- home

test("a second identical build transfers nothing", async (pair) => {
  const { bazel, sh } = pair;
  await bazel(["build", "//..."]);
  const went = await traffic(pair, () => bazel(["build", "//..."]));
  const outputs = Number(await sh("find -L bazel-bin/ -type f -exec cat {} + | wc -c"));
  assert(outputs > 2 * MESSAGES, `there are only ${outputs} bytes of outputs`);
  assert(went.there < MESSAGES && went.back < MESSAGES, JSON.stringify(went));
});

test("an output that was lost here comes home again", async ({ bazel, sh }) => {
  await bazel(["build", "//:hello"]);
  await sh("chmod -R u+w bazel-bin/; rm bazel-bin/hello; echo damaged > bazel-bin/data/names.txt");
  await bazel(["build", "//:hello"]);
  assert.match(await sh("bazel-bin/hello"), /Hello, Ada!/);
});

test("run runs here, with arguments, standard input, environment, and data files from here and there", async ({ bazel }) => {
  const options = { env: { VALUE: "a value" }, stdin: "input\n" };
  const shown = /^on 192\.0\.2\.1 with one two words and VALUE=a value\ndata from here\nmade there\ninput\n$/;
  const args = ["//showing:show", "--", "one", "two words"];
  assert.match((await bazel(["run", ...args], options)).stdout, shown);
  const under = ["run", "--run_under=env VALUE=under", ...args];
  assert.match((await bazel(under, options)).stdout, /VALUE=under\ndata/);
});

test("a script that run writes runs here, later", async ({ bazel, machines, path, sh, workspace }) => {
  const script = join(workspace.env.HOME!, "later.sh");
  await bazel(["run", `--script_path=${script}`, "//showing:show"]);
  await machines.link.cut();
  try {
    assert.match(await sh(`${script} later`, { cwd: path("data") }), /^on 192\.0\.2\.1 with later/);
  } finally {
    await machines.link.heal();
  }
});

test("files that flags name land where they say", async ({ bazel, workspace }) => {
  const file = (name: string) => join(workspace.env.HOME!, name);
  const flags = [`--build_event_json_file=${file("events.json")}`, `--profile=${file("profile.gz")}`];
  await bazel(["build", ...flags, "//data:names"]);
  const events = (await Deno.readTextFile(file("events.json"))).trimEnd().split("\n").map((line) => JSON.parse(line));
  assert(events.some(({ lastMessage }) => lastMessage), "the build events are not whole");
  const profile = await Deno.readFile(file("profile.gz"));
  assert.deepEqual([...profile.subarray(0, 2)], [0x1f, 0x8b]);
});

test("coverage comes home, of each test and of all", async ({ bazel, path }) => {
  await bazel(["coverage", "--combined_report=lcov", "//greeting:greeting_test"]);
  assert((await Deno.stat(path("bazel-testlogs/greeting/greeting_test/coverage.dat"))).isFile);
  assert.match(await Deno.readTextFile(path("bazel-out/_coverage/_coverage_report.dat")), /greeting\.cc/);
});

function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
