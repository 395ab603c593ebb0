/**
 * The attacker speaks for the agent, and wants the laptop to execute what it says. The stock client would: it executes
 * whatever program a response names, whatever the command was.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { type Cluster, startCluster } from "../support/cluster.ts";
import { ROOT } from "../support/repository.ts";
import type { RunOptions } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { type TestWorkspace, testWorkspace } from "../support/workspace.ts";
import type { Lie } from "./hostile_agent.ts";

const { found } = await findBazels();

/** RunResponse.exec_request, and its fields. */
const EXEC_REQUEST = 8;

interface Wish {
  directory?: string;
  argv: string[];
  environment?: Record<string, string>;
  /** Encoded fields of the ExecRequest. */
  more?: Uint8Array;
}

function execRequest({ directory = "/", argv, environment = {}, more = new Uint8Array() }: Wish): Uint8Array {
  const request = Buffer.concat([
    encodeFields([[1, directory]]),
    ...argv.flatMap((arg) => [lengthPrefix(2, Buffer.byteLength(arg)), Buffer.from(arg)]),
    encodeFields(Object.entries(environment).map(([name, value]) => [3, encodeFields([[1, name], [2, value]])])),
    encodeFields([[5, true]]),
    more,
  ]);
  return Buffer.concat([lengthPrefix(EXEC_REQUEST, request.length), request]);
}

/** A workspace whose agent lies, and a file that is there once something was executed that must not be. */
interface Attacked extends AsyncDisposable {
  workspace: TestWorkspace;
  cluster: Cluster;
  executed: string;
  /** From now on. */
  lie(added: Uint8Array, options?: Partial<Lie>): Promise<void>;
  /** As an honest agent, from now on. */
  lieNoMore(): Promise<void>;
  /** Nothing was executed by this command; the person reads one sentence of ours. */
  refuses(args: string[], options?: RunOptions): Promise<string>;
}

async function attacked(bazel: Bazel, workspaceMode: "shared" | "synced"): Promise<Attacked> {
  await using cleanup = new AsyncDisposableStack();
  const directory = cleanup.use(await tempDir("rbs-attack-"));
  const lies = directory.join("lie.json"), agent = directory.join("agent"), executed = directory.join("executed");
  const deno = [Deno.execPath(), "run", "--allow-all", "--quiet", "--frozen", `--config=${join(ROOT, "deno.json")}`];
  const program = [`--preload=${join(import.meta.dirname!, "hostile_agent.ts")}`, join(ROOT, "agent/main.ts")];
  const script = [...deno, ...program].map((word) => `'${word}'`).join(" ");
  await Deno.writeTextFile(agent, `#!/bin/sh\nRBS_TEST_LIE='${lies}' exec ${script} "$@"\n`, { mode: 0o755 });
  const args = [`--agent=${agent}`, `--workspace=${workspaceMode}`];
  const cluster = cleanup.use(await startCluster({ args, env: { RBS_BAZEL: bazel.path } }));
  const workspace = cleanup.use(
    await testWorkspace(bazel, { env: cluster.env, startupOptions: [cluster.serverJavabase] }),
  );
  const first = await workspace.run(["build", "//scripts:echo"]);
  assert.equal(first.code, 0, first.stderr);
  const all = cleanup.move();
  const lieNoMore = () => Deno.remove(lies).catch(() => {});
  return {
    workspace,
    cluster,
    executed,
    async lie(added, options) {
      const lie: Lie = { at: "last", without: [EXEC_REQUEST], added: Buffer.from(added).toString("hex"), ...options };
      await Deno.writeTextFile(lies, JSON.stringify(lie));
    },
    lieNoMore,
    async refuses(args, options) {
      const { code, stdout, stderr } = await workspace.run(args, options);
      const isThere = await Deno.stat(executed).then(() => true, () => false);
      assert.ok(!isThere, `${args.join(" ")} has executed what the agent said:\n${stdout}${stderr}`);
      assert.equal(code, 37, `${args.join(" ")}:\n${stdout}${stderr}`);
      const said = stderr.split("\n").filter((line) => /^rbs: (?!warning: )/.test(line));
      assert.equal(said.length, 1, stderr);
      assert.match(said[0], /^rbs: The agent at \S+:\d+ wants .*: nothing was executed; .*\.$/);
      return said[0];
    },
    async [Symbol.asyncDispose]() {
      await lieNoMore();
      await all.disposeAsync();
    },
  };
}

/** What the tests of a mode share. */
const shared = new Map<string, Promise<Attacked>>();

async function attackedOf(mode: "shared" | "synced"): Promise<Attacked> {
  if (!shared.has(mode)) shared.set(mode, attacked(found[0], mode));
  const one = await shared.get(mode)!;
  await one.lieNoMore();
  return one;
}

Deno.test.afterAll(async () => {
  for (const one of shared.values()) await (await one)[Symbol.asyncDispose]();
});

function test(name: string, fn: () => Promise<void>) {
  // What is attacked outlives each of its tests.
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

for (const mode of ["shared", "synced"] as const) {
  test(`${mode}: no command but run executes what the agent says`, async () => {
    const t = await attackedOf(mode);
    const touch = execRequest({ argv: ["/bin/bash", "-c", `touch ${t.executed}`] });
    await t.lie(touch);
    const commands = [["build", "//scripts:echo"], ["query", "//scripts:all"], ["info"], ["version"], ["help"]];
    for (const args of commands) {
      assert.match(await t.refuses(args), new RegExp(`program executed here for "${args[0]}"`));
    }
    await t.lie(touch, { at: "first" });
    for (const args of [["info"], ["run", "//scripts:echo"]]) {
      assert.match(await t.refuses(args), /in the middle of/);
    }
    await t.lie(encodeFields([[7, true]]), { without: [7] });
    assert.match(await t.refuses(["info"]), /the server ended for "info"/);
  });

  test(`${mode}: run executes nothing but outputs, where and as the user asked for it`, async () => {
    const t = await attackedOf(mode);
    const touch = `touch ${t.executed}`;
    const directory = (await t.workspace.run(["info", "execution_root"])).stdout.trim();
    const bin = (await t.workspace.run(["info", "bazel-bin"])).stdout.trim();
    const echo = `${bin}/scripts/echo`;
    const env = "/usr/bin/env";
    const shell = (text: string): Wish => ({ directory, argv: ["/bin/bash", "-c", text] });
    const wishes: Wish[] = [
      { directory, argv: ["/usr/bin/touch", t.executed] },
      shell(touch),
      shell(`/usr/bin/${touch}`),
      shell(`${echo}; ${touch}`),
      shell(`${echo} $(${touch})`),
      shell(`${echo} \`${touch}\``),
      shell(`${echo} '' & ${touch}`),
      shell(`${echo} ''\n${touch}`),
      shell(`${echo} "$(${touch})"`),
      shell(`${echo} 'a'"$(${touch})"'b'`),
      shell(`${echo} <(${touch})`),
      shell(`A=1 ${touch}`),
      shell(`${bin}/../../../../../../../../../../../../../../usr/bin/${touch}`),
      { directory, argv: ["/bin/sh", "-c", echo] },
      { directory, argv: ["/bin/bash", "-c", echo, "--rcfile", "/x"] },
      { directory, argv: ["/bin/bash", "-l", echo] },
      { directory, argv: ["bash", "-c", echo] },
      { directory, argv: [] },
      { directory: "/tmp", argv: [echo] },
      { directory: `${directory}/../../../..`, argv: [echo] },
      ...["BASH_ENV", "ENV", "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "IFS", "BASH_FUNC_cat%%", "PYTHONSTARTUP"].map((
        name,
      ) => ({ ...shell(echo), environment: { [name]: t.executed } })),
      { ...shell(echo), environment: { BUILD_WORKSPACE_DIRECTORY: "/" } },
      { ...shell(echo), more: encodeFields([[4, "LD_PRELOAD"]]) },
      { ...shell(echo), more: encodeFields([[6, encodeFields([[1, t.executed], [2, touch]])]]) },
      { ...shell(echo), more: encodeFields([[8, "what a client of tomorrow does"]]) },
      { ...shell(echo), more: encodeFields([[1, "/"]]) },
    ];
    // All of them are judged in answer_filter_test as well; a disk that is shared is another way to be at home.
    for (const wish of mode === "shared" ? wishes.filter((_, i) => i % 4 === 0) : wishes) {
      await t.lie(execRequest(wish));
      await t.refuses(["run", "//scripts:echo"]);
    }
    // Clients merge the two.
    await t.lie(Buffer.concat([execRequest(shell(echo)), execRequest({ argv: ["-c", touch] })]));
    assert.match(await t.refuses(["run", "//scripts:echo"]), /there twice/);
    // The user's own command stands before whatever is executed.
    const under = ["run", `--run_under=${env} --ignore-environment`, "//scripts:echo"];
    for (const text of [echo, `${env} ${echo}`, `${env} --ignore-environment ${touch}`, `/bin/bash -c '${touch}'`]) {
      await t.lie(execRequest(shell(text)));
      await t.refuses(under);
    }
    await t.lie(execRequest({ ...shell(`${env} --ignore-environment ${echo}`), environment: { ANY: "thing" } }));
    assert.match(await t.refuses(under), /RBS_CLIENT_ENV=ANY/);
  });
}
