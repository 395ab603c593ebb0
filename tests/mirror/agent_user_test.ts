/** An orchestrator of root whose agents are an ordinary user, with the real programs: what a build action is, and finds. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { findBazels, IS_FURTHER } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { PROGRAMS } from "../support/repository.ts";
import { tempDir } from "../support/temp_dir.ts";
import { testWorkspace } from "../support/workspace.ts";
import { processesNaming } from "./support/processes.ts";

/** The user whom every machine has. */
const NOBODY = 65534;

const { found: [bazel] } = await findBazels({ npm: false });

Deno.test({
  name: "with --agent-user, agents and actions are that user, cold and warm and adopted, to whom the keys are closed",
  ignore: !bazel || IS_FURTHER || Deno.uid() !== 0,
  async fn() {
    await using folder = await tempDir("rbs-agent-user-");
    await Deno.chmod(folder.path, 0o755);
    // The programs may lie where only root can read.
    const [agent, deno, storage] = ["agent", "deno", "storage"].map((name) => folder.join(name));
    await Deno.copyFile(PROGRAMS.agent, agent);
    await Deno.copyFile(Deno.execPath(), deno);
    for (const program of [agent, deno]) await Deno.chmod(program, 0o755);
    await using cluster = await startCluster({
      args: [
        ...["--workspace=synced", `--agent-user=${NOBODY}:${NOBODY}`, `--storage-root=${storage}`],
        ...["--warm=1", `--agent=${agent}`],
      ],
      env: { PATH: `${folder.path}:${Deno.env.get("PATH")}` },
    });
    const spy = [
      "id -u",
      "id -G",
      // By the ways that a namespace leaves, and by the agent's own.
      `cat ${cluster.state}/keys/* /proc/*/root${cluster.state}/keys/* ${cluster.state}/sessions.sqlite`,
    ].join("; ").replaceAll("$", "$$");
    const rule = `genrule(name = "spy", outs = ["seen"], local = True, cmd = "(${spy}) >$@ 2>&1 || true")\n`;
    const options = { startupOptions: [cluster.serverJavabase], env: cluster.env };
    const builds = async (workspace: { path: string; run: typeof cold.run }, round: number) => {
      // Another action each time.
      await Deno.writeTextFile(join(workspace.path, "BUILD"), rule.replace("id -u", `true ${round}; id -u`));
      const built = await workspace.run(["build", "//:spy"]);
      assert.equal(built.code, 0, built.stderr);
      return (await Deno.readTextFile(join(workspace.path, "bazel-bin/seen"))).trim().split("\n");
    };
    await using cold = await testWorkspace(bazel, options);
    await using warm = await testWorkspace(bazel, options);
    for (const [round, workspace] of [cold, warm, cold].entries()) {
      // The last time, an orchestrator has taken the agent over.
      if (round === 2) {
        cluster.orchestrator.kill("SIGKILL");
        await cluster.orchestrator.finished;
        await cluster.restart();
      }
      const seen = await builds(workspace, round);
      assert.deepEqual(seen.slice(0, 2), [String(NOBODY), String(NOBODY)], seen.join("\n"));
      assert(!seen.join("\n").includes("PRIVATE KEY"), seen.join("\n"));
      assert(seen.length > 2, "what it may not read it is told");
    }

    const agents = (await processesNaming(agent)).filter(({ args }) => args.includes(agent));
    assert(agents.length >= 2, "there are agents");
    for (const { pid, args } of agents) {
      if (args.some((a) => a === PROGRAMS.orchestrator)) continue;
      const status = await Deno.readTextFile(`/proc/${pid}/status`);
      assert.match(status, new RegExp(`^Uid:(\\s+${NOBODY}){4}$`, "m"));
      assert.match(status, /^Groups:\s*(65534)?\s*$/m);
    }
    for (const user of Deno.readDirSync(storage)) {
      const of = Deno.lstatSync(join(storage, user.name));
      assert.deepEqual([of.uid, of.mode! & 0o777], [0, 0o711], user.name);
      for (const { name } of Deno.readDirSync(join(storage, user.name))) {
        const { uid, mode, isFile } = Deno.lstatSync(join(storage, user.name, name));
        // Each agent's file, in whose folder only root can put another one.
        const isAlive = isFile && name.endsWith(".alive");
        // Archives hold nothing but Bazel's own classes, and sessions that are other users read them.
        const expected = isAlive ? 0o600 : name === ".classes" ? 0o755 : 0o700;
        assert.deepEqual([uid, mode! & 0o777], [NOBODY, expected], `${user.name}/${name}`);
      }
    }
  },
});

Deno.test({
  name: "--agent-user says what it needs",
  ignore: IS_FURTHER || Deno.uid() !== 0,
  async fn() {
    await using folder = await tempDir("rbs-agent-user-");
    const says = async (...args: string[]) => {
      const { code, stderr } = await new Deno.Command(PROGRAMS.orchestrator, {
        args: ["--local-mode", "--port=0", ...args],
        env: { RBS_STATE_DIR: folder.join("state") },
      }).output();
      return [code, new TextDecoder().decode(stderr).trim()] as const;
    };
    const [usage, wrong] = await says("--agent-user=nobody");
    assert.equal(usage, 2);
    assert.match(wrong, /^orchestrator: --agent-user belongs with --workspace=synced: [^\n]*$/);
    for (
      const [user, sentence] of [
        ["nobody", /^orchestrator: With --agent-user, agents cannot get at storage in the state directory[^\n]*$/],
        ["nobody-of-this-name", /^orchestrator: There is no user "nobody-of-this-name" in \/etc\/passwd[^\n]*$/],
        ["root", /^orchestrator: Agents cannot run as root, who is root: [^\n]*$/],
      ] as const
    ) {
      const [code, stderr] = await says("--workspace=synced", `--agent-user=${user}`);
      assert.equal(code, 1);
      assert.match(stderr, sentence);
    }
    // The program itself has no right to look there.
    const home = folder.join("home");
    await Deno.chmod(folder.path, 0o711);
    await Deno.mkdir(home);
    await Deno.chown(home, NOBODY, NOBODY);
    const [code, stderr] = await says("--workspace=synced", "--agent-user=nobody", `--storage-root=${home}/storage`);
    assert.equal(code, 1);
    assert.match(stderr, new RegExp(`lies in ${home}, which belongs to uid ${NOBODY}: [^\n]*$`));
  },
});
