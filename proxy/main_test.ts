import assert from "node:assert/strict";
import { join } from "node:path";
import { eventually } from "../tests/support/eventually.ts";
import { encodeFields } from "../proto/base/protobuf_fields.ts";
import { BazelClient } from "./testing/agent.ts";
import { tempDirSync } from "../tests/support/temp_dir.ts";

const MAIN = new URL("./main.ts", import.meta.url).pathname;

/** A proxy as a Bazel client starts it, with a workspace and an output base of its own; nobody answers for an agent. */
class ProxyProcess implements AsyncDisposable {
  readonly #temp = tempDirSync("proxy test ");
  readonly root = this.#temp.path;
  readonly workspace = join(this.root, "ws");
  readonly outputBase = join(this.root, "ob");
  readonly child: Deno.ChildProcess;
  readonly #log: Promise<string>;
  /** Stands where the orchestrator should be, and says nothing. */
  readonly #silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  #client?: BazelClient;

  constructor(options: string[] = [], env: Record<string, string> = {}) {
    Deno.mkdirSync(this.workspace);
    Deno.mkdirSync(join(this.outputBase, "server"), { recursive: true });
    this.child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--quiet", "--allow-all", "--no-prompt", MAIN],
        ...["-XX:-MaxFDLimit", "-jar", "/nowhere/A-server.jar", "--max_idle_secs=10800"],
        ...[`--output_base=${this.outputBase}`, `--workspace_directory=${this.workspace}`, ...options],
      ],
      cwd: this.workspace,
      env: {
        RBS_STATE_DIR: join(this.root, "state"),
        RBS_ORCHESTRATOR_ADDR: `127.0.0.1:${(this.#silent.addr as Deno.NetAddr).port}`,
        ...env,
      },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    Deno.writeTextFileSync(this.file("server.pid.txt"), String(this.child.pid));
    this.#log = new Response(this.child.stderr).text();
  }

  file(name: string): string {
    return join(this.outputBase, "server", name);
  }

  exists(path: string): boolean {
    try {
      Deno.statSync(path);
      return true;
    } catch {
      return false;
    }
  }

  /** A client, once the address is there. */
  async client(): Promise<BazelClient> {
    if (this.#client) return this.#client;
    await eventually(() => this.exists(this.file("command_port")), "the address", 30_000);
    const address = Deno.readTextFileSync(this.file("command_port"));
    assert.match(address, /^127\.0\.0\.1:\d+$/);
    return this.#client = new BazelClient(
      Number(address.split(":")[1]),
      Deno.readTextFileSync(this.file("request_cookie")),
    );
  }

  /** Waits for its end. */
  async ended(): Promise<{ code: number; log: string }> {
    const { code } = await this.child.status;
    return { code, log: await this.#log };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client?.[Symbol.dispose]();
    this.#silent.close();
    try {
      this.child.kill("SIGKILL");
    } catch { /* ended already */ }
    await this.ended();
    this.#temp[Symbol.dispose]();
  }
}

Deno.test("a proxy answers Ping, holds Run with an id to cancel it by, and ends with shutdown", async () => {
  await using proxy = new ProxyProcess();
  const client = await proxy.client();
  const { code, data } = await client.call("Ping");
  assert.deepEqual([code, data], [0, encodeFields([[1, Deno.readTextFileSync(proxy.file("response_cookie"))]])]);
  const run = await client.run(["build"]);
  const { commandId } = await run.first;
  assert.match(commandId, /-/);
  assert.equal((await client.call("Cancel", commandId)).code, 0);
  assert.equal((await run.ended).exitCode, 8);
  proxy.child.kill("SIGQUIT"); // asks what it does; it does not end by that
  proxy.child.kill("SIGINT");
  proxy.child.kill("SIGHUP");
  const shutdown = await (await client.run(["shutdown"])).ended;
  assert.deepEqual([shutdown.end.code, shutdown.exitCode], [0, 0]);
  const answered = performance.now();
  const end = await proxy.ended();
  assert.ok(performance.now() - answered < 2_000, "the client waits for that");
  assert.equal(end.code, 0);
  assert.match(end.log, /rbs: ending: shutdown/);
  assert.deepEqual([...Deno.readDirSync(join(proxy.outputBase, "server"))], []);
});

Deno.test("a client that has gone before its Ping does not keep the proxy from its work", async () => {
  await using proxy = new ProxyProcess();
  const client = await proxy.client();
  const run = await client.run(["shutdown"]); // no Ping before
  assert.equal((await run.ended).exitCode, 0);
  assert.equal((await proxy.ended()).code, 0);
});

Deno.test("without an output base or a workspace it says what it is for, and exits with 36", async () => {
  await using proxy = new ProxyProcess(["--workspace_directory="]);
  const { code, log } = await proxy.ended();
  assert.equal(code, 36);
  assert.match(log, /^rbs: this program stands in for a Bazel server's JVM: .*\n$/);
});

Deno.test("garbage on its port, and callers without the cookie, do not end it", async () => {
  await using proxy = new ProxyProcess();
  const client = await proxy.client();
  for (
    const garbage of [
      "GET / HTTP/1.1\r\n\r\n",
      "\0\0\0\0",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ]
  ) {
    using tcp = await Deno.connect({
      hostname: "127.0.0.1",
      port: Number(Deno.readTextFileSync(proxy.file("command_port")).split(":")[1]),
    });
    await tcp.write(Uint8Array.from(garbage, (c) => c.charCodeAt(0)));
  }
  assert.equal((await client.call("Run", "", "wrong")).code, 16);
  assert.equal((await client.call("Ping")).code, 0);
});

Deno.test("it ends when it is told to, is idle, is nobody's server any more, or its folders are gone", async () => {
  const reasons: [string[], (proxy: ProxyProcess) => void, number, RegExp][] = [
    [[], (p) => p.child.kill("SIGTERM"), 143, /ending: SIGTERM/],
    [["--max_idle_secs=1"], () => {}, 0, /ending: no command for 1 s/],
    [[], (p) => Deno.writeTextFileSync(p.file("server.pid.txt"), "1"), 0, /ending: server\.pid\.txt/],
    [[], (p) => Deno.removeSync(p.outputBase, { recursive: true }), 0, /ending: server\.pid\.txt/],
    [[], (p) => Deno.removeSync(p.workspace), 0, /ending: the workspace is gone/],
  ];
  await Promise.all(reasons.map(async ([options, act, code, why]) => {
    await using proxy = new ProxyProcess(options);
    const client = await proxy.client();
    // What follows the first Ping has been loaded when a command is answered.
    assert.equal((await client.call("Ping")).code, 0);
    const run = await client.run(["info"]);
    await client.call("Cancel", (await run.first).commandId);
    await run.ended;
    act(proxy);
    const end = await proxy.ended();
    assert.equal(end.code, code);
    assert.match(end.log, why);
    if (proxy.exists(proxy.outputBase)) assert.equal(proxy.exists(proxy.file("command_port")), false);
  }));
});

Deno.test("an idle time of years is no reason to end at once", async () => {
  await using proxy = new ProxyProcess(["--max_idle_secs=99999999"]);
  const client = await proxy.client();
  for (let i = 0; i < 2; i++) {
    const run = await client.run(["info"]);
    await client.call("Cancel", (await run.first).commandId);
    assert.equal((await run.ended).exitCode, 8);
  }
});
