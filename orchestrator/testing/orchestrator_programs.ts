/** Real orchestrator programs on one store, whose agents are fakes. */
import { join } from "node:path";
import { Agent } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type GetServerResponse, Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { createRpcClient, type RpcClient } from "../../proto/transport/rpc/client.ts";
import { readCredentials } from "../../proto/identity/key_directory.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";
import { eventually } from "../../tests/support/eventually.ts";

const MAIN = join(import.meta.dirname!, "../main.ts");
const FAKE_AGENT = join(import.meta.dirname!, "fake_agent.ts");

/** One that was started. */
export class OrchestratorProgram {
  #log = "";
  #logged = Promise.withResolvers<void>();
  /** The whole log, when the program has ended. */
  readonly #ended: Promise<void>;

  constructor(readonly child: Deno.ChildProcess, readonly port: number) {
    this.#ended = (async () => {
      for await (const part of child.stderr.pipeThrough(new TextDecoderStream())) {
        this.#log += part;
        this.#logged.resolve();
        this.#logged = Promise.withResolvers();
      }
    })();
  }

  /** What it has logged so far. */
  get log(): string {
    return this.#log;
  }

  /** Resolves when its log, from `from` on, has something like that. */
  async logs(pattern: RegExp, from = 0): Promise<void> {
    while (!pattern.test(this.#log.slice(from))) {
      const logged = this.#logged.promise;
      await Promise.race([
        logged,
        this.#ended.then(() => {
          if (!pattern.test(this.#log.slice(from))) throw new Error(`it ended without ${pattern}:\n${this.#log}`);
        }),
      ]);
    }
  }

  /** Signals it; SIGSTOP is in force when this resolves. */
  async signal(name: Deno.Signal): Promise<void> {
    try {
      this.child.kill(name);
    } catch {
      return; // It has ended.
    }
    if (name !== "SIGSTOP") return;
    const tasks = `/proc/${this.child.pid}/task`;
    const state = (id: string) => Deno.readTextFileSync(`${tasks}/${id}/stat`).replace(/.*\) /s, "")[0];
    await eventually(() => [...Deno.readDirSync(tasks)].every(({ name }) => state(name) === "T"));
  }

  /** Ends it, and resolves when it has. */
  async end(name: Deno.Signal = "SIGKILL"): Promise<void> {
    await this.signal("SIGCONT");
    await this.signal(name);
    await this.child.status;
    await this.#ended;
  }
}

/** A state directory, and the orchestrators that share it. */
export class OrchestratorPrograms implements AsyncDisposable {
  readonly #temp = tempDirSync();
  readonly stateDir = join(this.#temp.path, "state");
  readonly started: OrchestratorProgram[] = [];
  readonly #agent = join(this.#temp.path, "agent");

  /** @param flags What all of them are started with, and variables. */
  constructor(readonly flags: readonly string[] = [], readonly env: Record<string, string> = {}) {
    const quoted = (s: string) => `'${s.replaceAll("'", "'\\''")}'`;
    const script = `#!/bin/sh\nexec ${quoted(Deno.execPath())} run -A --no-check ${quoted(FAKE_AGENT)}\n`;
    Deno.writeTextFileSync(this.#agent, script, { mode: 0o700 });
  }

  /** Starts one, and waits until it serves. */
  async start(...flags: string[]): Promise<OrchestratorProgram> {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--frozen", "-A", "--no-check", MAIN, "--local-mode", "--port=0", ...this.flags, ...flags],
      env: { NO_COLOR: "1", USER: "ann", RBS_STATE_DIR: this.stateDir, RBS_AGENT: this.#agent, ...this.env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    let line = "";
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
      if ((line += part).includes("\n")) break;
    }
    const port = Number(/ready on \S+:(\d+) /.exec(line)?.[1]);
    if (!port) throw new Error(`the orchestrator did not start: ${await new Response(child.stderr).text()}`);
    const program = new OrchestratorProgram(child, port);
    this.started.push(program);
    return program;
  }

  /** A client; the caller closes it. @param port Where, if not there itself. */
  client({ port }: { port: number }): RpcClient<typeof Orchestrator> {
    const credentials = readCredentials(this.stateDir, "user");
    return createRpcClient(Orchestrator, `127.0.0.1:${port}`, {
      tls: { credentials, expected: { kind: "orchestrator" } },
    });
  }

  /** What a client asks for. */
  request(workspace = "/ws", ...startupOptions: string[]) {
    return {
      repoHash: repoHash(workspace),
      sessionId: randomToken(),
      sourcePath: workspace,
      startupOptions: ["--x", ...startupOptions],
    };
  }

  /** The process ids of all agents that run, whichever orchestrator started them. */
  agents(): number[] {
    const found: number[] = [];
    for (const { name } of Deno.readDirSync("/proc")) {
      if (!/^\d+$/.test(name)) continue;
      try {
        const folder = Deno.readLinkSync(`/proc/${name}/cwd`);
        const isZombie = /\) Z /.test(Deno.readTextFileSync(`/proc/${name}/stat`));
        if (!isZombie && folder.startsWith(`${this.stateDir}/storage/`)) found.push(Number(name));
      } catch {
        // It has ended.
      }
    }
    return found;
  }

  /** What the fake agent behind a server says of itself. Throws an RpcError when it refuses the caller, or is gone. */
  async ask(server: GetServerResponse, ...args: string[]): Promise<{ pid: number; epochs: number[] }> {
    const { port, agentId } = server.session!.agent!;
    const credentials = readCredentials(this.stateDir, "user");
    using client = createRpcClient(Agent, `127.0.0.1:${port}`, {
      token: server.accessToken,
      tls: { credentials, expected: { kind: "agent", agentId } },
    });
    const call = client.executeCommand({ timeoutMs: 5_000 });
    await call.send({ message: { case: "init", value: { args: args.length > 0 ? args : ["who"] } } });
    let answer = "";
    for await (const { message } of call) {
      if (message.case === "stdout") answer += new TextDecoder().decode(message.value);
    }
    return JSON.parse(answer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.started) await program.end();
    for (const pid of this.agents()) {
      try {
        Deno.kill(pid, "SIGKILL");
      } catch {
        // It has ended.
      }
    }
    await eventually(() => this.agents().length === 0);
    this.#temp[Symbol.dispose]();
  }
}
