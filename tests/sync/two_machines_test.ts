/**
 * Two machines that share nothing but a link: what the developer just saved is what gets built, what was built is where
 * the developer expects it, and nothing else travels. What is as with the stock client, the mirror test compares there.
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { repoHash } from "../../proto/bazel/workspace.ts";
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
    cmd = "env > $@; set +u; cat $$CANARIES < /dev/null >> $@ 2>&1 || true",
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

sh_binary(
    name = "under",
    srcs = ["under.sh"],
)

genrule(name = "made", outs = ["made.txt"], cmd = "echo made there > $@")
`,
  "showing/show.sh": `#!/bin/bash
printf 'on %s with %s and VALUE=%s\n' "$(hostname -I | tr -d ' ')" "$*" "$VALUE"
cat "$0.runfiles/rbs_cpp/showing/data.txt" "$0.runfiles/rbs_cpp/showing/made.txt" -
`,
  "showing/data.txt": "data from here\n",
  "showing/under.sh": `#!/bin/bash
echo "under, on $(hostname -I)"
exec "$@"
`,
  // What comes home of targets that nothing has built before, for each value of RBS_OUTPUTS.
  "bringing/BUILD": `
load("@rules_shell//shell:sh_binary.bzl", "sh_binary")

[[
    genrule(name = "inner_" + to, outs = ["inner_%s.txt" % to], cmd = "echo inner > $@", tags = ["manual"]),
    genrule(
        name = "named_" + to,
        srcs = ["inner_" + to],
        outs = ["named_%s.txt" % to],
        cmd = "cat $< > $@; echo named >> $@",
        tags = ["manual"],
    ),
    genrule(name = "data_" + to, outs = ["data_%s.txt" % to], cmd = "echo data > $@", tags = ["manual"]),
    sh_binary(name = "tool_" + to, srcs = ["tool.sh"], data = ["data_" + to], tags = ["manual"]),
] for to in ["toplevel", "minimal", "all"]]

genrule(
    name = "compressible",
    outs = ["compressible.txt"],
    cmd = "seq 500000 | sed 's/$$/ and the same words in each line/' > $@",
    tags = ["manual"],
)
`,
  "bringing/tool.sh": `#!/bin/bash
echo "on $(hostname -I)"
cat "$0".runfiles/rbs_cpp/bringing/data_*.txt
`,
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
const FIRST = found.slice(0, 1);
const pairs = new Map<Bazel, Promise<Pair>>();

Deno.test.afterAll(async () => {
  for (const pair of pairs.values()) await (await pair)[Symbol.asyncDispose]();
});

/**
 * A case for these Bazels. The cases of one Bazel share two machines and a workspace.
 *
 * @param bazels All that speak another dialect of what a command asks for, or leaves; the first one for what RBS does of
 * itself: which files it brings there, and when.
 */
function test(name: string, fn: (pair: Pair) => Promise<void>, bazels: readonly Bazel[] = found) {
  for (const bazel of bazels) {
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
}, FIRST);

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
}, FIRST);

test("a sync that takes more than a second says how far it is", async ({ machines, workspace, path }) => {
  await Deno.writeFile(path("large.bin"), randomBytes(6_000_000));
  await machines.link.set({ rate: 16e6 });
  await using build = workspace.start(["build", "//data:names"]);
  await build.says(/^rbs: syncing [\d,]+ of [\d,]+ files?, .* of .* MB/m);
  assert.equal((await build.finished).code, 0);
}, FIRST);

test("an agent that is started anew has the files already", async (pair) => {
  const { bazel, cluster, path } = pair;
  await Deno.writeFile(path("large.bin"), randomBytes(6_000_000));
  await bazel(["build", "//data:names"]);
  await cluster.stop();
  await cluster.restart();
  const { there } = await traffic(pair, () => bazel(["build", "//data:names"]));
  assert(there < 1_000_000, `${there} bytes went there`);
  await Deno.remove(path("large.bin"));
}, FIRST);

test(
  "secrets stay here: the environment, the home directory, the keys",
  async ({ bazel, cluster, machines, workspace, path, sh }) => {
    const { cloud } = machines;
    const secret = `secret-${crypto.randomUUID()}`;
    const canaries = [join(workspace.env.HOME!, "canary"), join(machines.laptop.directory, "canary")];
    for (const canary of canaries) await Deno.writeTextFile(canary, secret);
    const key = join(cluster.state, "keys/user.pem");
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
  },
  FIRST,
);

test(
  "links that lead out of the workspace lead to the same things there, as they are now",
  async ({ bazel, machines, path, sh }) => {
    const outside = join(machines.laptop.directory, "set"), latest = join(machines.laptop.directory, "latest");
    await Deno.mkdir(join(outside, "deep"), { recursive: true });
    await Deno.writeTextFile(join(outside, "deep/file.txt"), "from the set\n");
    await Deno.symlink("set/deep/file.txt", latest);
    await sh(`
    mkdir linking; ln -s ${outside} linking/set; ln -s ${latest} linking/latest; ln -s /nowhere/at-all linking/dangling
    echo 'genrule(name = "all", srcs = ["set/deep/file.txt", "latest"], outs = ["all.txt"], cmd = "cat $(SRCS) > $@")' \
      > linking/BUILD`);
    const built = async () => {
      await bazel(["build", "//linking:all"]);
      return await Deno.readTextFile(path("bazel-bin/linking/all.txt"));
    };
    assert.equal(await built(), "from the set\n".repeat(2));
    await Deno.writeTextFile(join(outside, "deep/file.txt"), "other\n");
    assert.equal(await built(), "other\n".repeat(2));
    await sh("rm -r linking");
  },
  FIRST,
);

test("repositories and packages outside of the workspace are built as they are now", async ({ bazel, machines, path }) => {
  const root = (name: string) => join(machines.laptop.directory, name);
  const write = async (file: string, text: string) => {
    await Deno.mkdir(dirname(root(file)), { recursive: true });
    await Deno.writeTextFile(root(file), text);
  };
  const rule = `genrule(name = "it", srcs = ["in.txt"], outs = ["out.txt"], cmd = "cp $< $@")`;
  await write("repository/WORKSPACE", "");
  await write("repository/BUILD", rule);
  await write("packages/other/BUILD", rule);
  const workspace = await Deno.readTextFile(path("WORKSPACE"));
  await Deno.writeTextFile(
    path("WORKSPACE"),
    `${workspace}\nlocal_repository(name = "elsewhere", path = "${root("repository")}")\n`,
  );
  for (const text of ["first", "second"]) {
    await write("repository/in.txt", `${text} repository`);
    await write("packages/other/in.txt", `${text} package`);
    await bazel(["build", `--package_path=%workspace%:${root("packages")}`, "@elsewhere//:it", "//other:it"]);
    assert.equal(await Deno.readTextFile(path("bazel-bin/external/elsewhere/out.txt")), `${text} repository`);
    assert.equal(await Deno.readTextFile(path("bazel-bin/other/out.txt")), `${text} package`);
  }
  await Deno.writeTextFile(path("WORKSPACE"), workspace);
});

test("the home directory's .bazelrc counts, and what it imports from the workspace", async ({ bazel, path, workspace }) => {
  const rc = join(workspace.env.HOME!, ".bazelrc");
  await Deno.writeTextFile(rc, "import %workspace%/more.bazelrc\ntry-import %workspace%/none.bazelrc\n");
  await Deno.writeTextFile(path("more.bazelrc"), "build --action_env=IMPORTED=by_home\n");
  await bazel(["build", "//looking:environment"]);
  assert.match(await Deno.readTextFile(path("bazel-bin/looking/environment.txt")), /^IMPORTED=by_home$/m);
  await Deno.remove(rc);
  await Deno.remove(path("more.bazelrc"));
});

test("over a slow link what compresses well is sent as little, in both directions", async (pair) => {
  const { bazel, machines, path } = pair;
  await bazel(["build", "//data:names"]);
  const text = Array.from({ length: 420_000 }, (_, i) => `line ${i} of a file with the same words in each\n`).join("");
  await Deno.writeTextFile(path("compressible.txt"), text);
  await machines.link.set({ rate: 20e6 });
  const went = await traffic(pair, () => bazel(["build", "//bringing:compressible"]));
  const { size } = await Deno.stat(path("bazel-bin/bringing/compressible.txt"));
  assert(text.length > 19e6 && size > 19e6, `${text.length} and ${size} bytes are too few to tell`);
  // That a link is slow shows only when its buffers are full, and they may take 5 MB.
  assert(went.there < text.length / 2 && went.back < size / 2, JSON.stringify(went));
  await Deno.remove(path("compressible.txt"));
}, FIRST);

// --- home

test("a second identical build transfers nothing", async (pair) => {
  const { bazel, sh } = pair;
  await bazel(["build", "//..."]);
  const went = await traffic(pair, () => bazel(["build", "//..."]));
  const outputs = Number(await sh("find -L bazel-bin/ -type f -exec cat {} + | wc -c"));
  assert(outputs > 2 * MESSAGES, `there are only ${outputs} bytes of outputs`);
  assert(went.there < MESSAGES && went.back < MESSAGES, JSON.stringify(went));
}, FIRST);

test("an output that was lost here comes home again", async ({ bazel, sh }) => {
  await bazel(["build", "//:hello"]);
  await sh("chmod -R u+w bazel-bin/; rm bazel-bin/hello; echo damaged > bazel-bin/data/names.txt");
  await bazel(["build", "//:hello"]);
  assert.match(await sh("bazel-bin/hello"), /Hello, Ada!/);
}, FIRST);

test("run runs here, with arguments, standard input, environment, and data files from here and there", async ({ bazel }) => {
  const options = { env: { VALUE: "a value" }, stdin: "input\n" };
  const shown = /^on 192\.0\.2\.1 with one two words and VALUE=a value\ndata from here\nmade there\ninput\n$/;
  const args = ["//showing:show", "--", "one", "two words"];
  assert.match((await bazel(["run", ...args], options)).stdout, shown);
  const under = ["run", "--run_under=env VALUE=under", ...args];
  assert.match((await bazel(under, options)).stdout, /VALUE=under\ndata/);
});

test("run runs a target under another one here", async ({ bazel }) => {
  const { stdout } = await bazel(["run", "--run_under=//showing:under", "//showing:show", "--", "one"], { stdin: "" });
  assert.match(stdout, /^under, on 192\.0\.2\.1 ?\non 192\.0\.2\.1 with one and VALUE=\ndata from here\nmade there\n$/);
});

/** Which of the outputs in `//bringing` that are made for a policy are here, runfiles included. */
async function broughtFor(policy: string, { sh }: Pair): Promise<string[]> {
  const find = `find -L bazel-bin/bringing -name '*_${policy}.txt' -printf '%P\\n'`;
  const found = await sh(`if [ -d bazel-bin/bringing ]; then ${find}; fi`);
  return found.split("\n").filter((name) => name !== "").sort();
}

const POLICIES = {
  toplevel: { what: "what was named comes home, with its runfiles", outputs: ["data", "named", "runfiles"] },
  minimal: { what: "nothing comes home", outputs: [] },
  all: { what: "all comes home", outputs: ["data", "inner", "named", "runfiles"] },
};

for (const [policy, { what, outputs }] of Object.entries(POLICIES)) {
  test(`with RBS_OUTPUTS=${policy} ${what}, and run runs here`, async (pair) => {
    // The first is what is done without it.
    const options = { env: { RBS_OUTPUTS: policy === "toplevel" ? undefined : policy } };
    await pair.bazel(["build", `//bringing:named_${policy}`, `//bringing:tool_${policy}`], options);
    const runfiles = `tool_${policy}.runfiles/rbs_cpp/bringing/data_${policy}.txt`;
    const files = outputs.map((name) => name === "runfiles" ? runfiles : `${name}_${policy}.txt`);
    assert.deepEqual(await broughtFor(policy, pair), files);
    const { stdout } = await pair.bazel(["run", `//bringing:tool_${policy}`], options);
    assert.match(stdout, /^on 192\.0\.2\.1 ?\ndata\n$/);
  });
}

test("a test's log and XML come home", async ({ bazel, path }) => {
  await bazel(["test", "--cache_test_results=no", "//greeting:greeting_test"]);
  const file = (name: string) => Deno.readTextFile(path("bazel-testlogs/greeting/greeting_test", name));
  assert.match(await file("test.log"), /^greetings are right$/m);
  assert.match(await file("test.xml"), /<testsuite name="greeting\/greeting_test"/);
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

test("after clean, and after clean --expunge, none of the outputs is here, and no link to them", async (pair) => {
  const { bazel, sh, workspace } = pair;
  const outputBase = join(workspace.outputUserRoot, repoHash(workspace.path));
  const links = () => sh(String.raw`find . -maxdepth 1 \( -name 'bazel-*' -o -xtype l \)`);
  const outputs = () => sh("if [ -d execroot ]; then find execroot -type f; fi", { cwd: outputBase });
  for (const flags of [[], ["--expunge"]]) {
    await bazel(["build", "//data:names"]);
    assert.notEqual(await links(), "");
    assert.match(await outputs(), /data\/names\.txt/);
    await bazel(["clean", ...flags]);
    assert.deepEqual([await links(), await outputs()], ["", ""]);
  }
  // What is the client's and the proxy's own stays.
  const own = ["install", "lock", "rbs", "server"];
  const names = (await Array.fromAsync(Deno.readDir(outputBase))).map(({ name }) => name);
  assert.deepEqual(names.filter((name) => !own.includes(name)), []);
});

function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
