/**
 * A session's programs try to impersonate its Bazel server, or to make the agent act for them through the server's
 * files.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { shell } from "../namespace/shell.ts";
import { SESSION_KINDS, TestAgent, TestWorkspace } from "../test_agent.ts";

/** Makes a program of this repository one that any user can run. @returns its command line */
async function runnable(workspace: TestWorkspace, entry: string): Promise<string[]> {
  const [deno, file] = [join(workspace.workspace, "deno"), join(workspace.workspace, "program.js")];
  const script = `cp -- "$2" "$5" && cd "$1" && "$2" bundle --quiet -o "$3" "$4" && chmod 755 "$3" "$5"`;
  const repository = join(import.meta.dirname!, "../..");
  const { code, stderr } = await shell(script, [repository, Deno.execPath(), file, entry, deno]);
  assert.equal(code, 0, stderr);
  return [deno, "run", "-A", "--quiet", file];
}

for (const [whose, options] of SESSION_KINDS) {
  Deno.test(`a program that takes the Bazel server's place, in a session ${whose}, gets no command`, async () => {
    await using workspace = await TestWorkspace.make();
    const impostor = await runnable(workspace, "agent/testing/impostor.ts");
    await using agent = await TestAgent.start(workspace, { startupOptions: workspace.startupOptions(), ...options });
    using supervisor = agent.supervise();
    await supervisor.ready();
    const release = async () => {
      const { exitCode, stdout, stderr, execRequest } = await agent.command(["info", "release"]);
      assert.deepEqual([exitCode, execRequest], [0, false], stderr);
      assert.match(stdout, /^release |^development version/);
    };
    await release();
    const calls = join(workspace.workspace, "calls");
    using posing = agent.execute({
      args: [...impostor, workspace.outputBase, calls, "A-server.jar"],
      env: { DENO_DIR: join(workspace.workspace, "deno-dir") },
    });
    await posing.says("posing");
    await release();
    await release();
    await assert.rejects(Deno.stat(calls), Deno.errors.NotFound, "a call reached it");
    assert.equal((await posing.result).code, 137, "it was ended before the next server was started");
  });

  Deno.test(`in a session ${whose}, what lies in the place of the server's files is neither written nor read through`, async () => {
    await using workspace = await TestWorkspace.make();
    const secret = join(workspace.root, "secret");
    const server = join(workspace.storage, "out/server");
    // A former session has left all that.
    await Deno.mkdir(join(server, "server.pid.txt"), { recursive: true });
    await Deno.writeTextFile(secret, "error: the key\n");
    for (const name of ["cmdline", "jvm.out", "command_port", "../javalog.properties", "../install"]) {
      await Deno.symlink(secret, join(server, name));
    }
    await shell(`mkfifo -- "$1"/request_cookie; truncate -s 2G -- "$1"/server_info.rawproto`, [server]);
    if (options.unprivileged) await shell(`chown -R 65534:65534 -- "$1"`, [workspace.storage]);
    {
      await using agent = await TestAgent.start(workspace, { startupOptions: workspace.startupOptions(), ...options });
      using supervisor = agent.supervise();
      await supervisor.ready();
      assert.equal((await agent.command(["info", "release"])).exitCode, 0);
      const peak = /^VmHWM:\s+(\d+) kB$/m.exec(await Deno.readTextFile(`/proc/${agent.process.pid}/status`))![1];
      assert(Number(peak) < 400_000, `the agent had ${peak} kB`);
    }
    assert.equal(await Deno.readTextFile(secret), "error: the key\n");
    assert(Deno.lstatSync(join(server, "cmdline")).isFile);
    assert.equal(await Deno.readLink(join(workspace.storage, "out/install")), "/usr/share/bazel");

    // A folder in another's place, and a server that cannot start: its last words are looked for.
    await Deno.rename(server, `${server}-elsewhere`);
    await Deno.mkdir(`${server}-theirs`);
    await Deno.writeTextFile(`${server}-theirs/jvm.out`, "error: the key\n");
    await Deno.symlink(`${server}-theirs`, server);
    const startupOptions = workspace.startupOptions({ hostJvmArgs: ["-Xno-such-option"] });
    await using agent = await TestAgent.start(workspace, { startupOptions, ...options });
    using supervisor = agent.supervise();
    await assert.rejects(
      supervisor.ready(),
      (e: Error) => /Xno-such-option/.test(e.message) && !/the key/.test(e.message),
    );
    assert.deepEqual([...Deno.readDirSync(`${server}-theirs`)].map(({ name }) => name), ["jvm.out"]);
    assert.equal(await Deno.readTextFile(`${server}-theirs/jvm.out`), "error: the key\n");
  });
}
