/** For tests: workspaces, and agents as processes of their own, as the orchestrator starts them. */
import { create, fromBinary, fromJsonString, type MessageInitShape, toBinary, toJsonString } from "@bufbuild/protobuf";
import { join } from "node:path";
import {
  Agent,
  AgentListeningSchema,
  type AgentReady,
  type AgentSpec,
  AgentSpecSchema,
  BlankAgentSchema,
  type CommandInit,
  type CommandInitSchema,
  type ResourceLimitsSchema,
  type SuperviseResponse,
} from "../proto/contract/gen/rbs/v1/agent_pb.ts";
import { RunResponseSchema } from "../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { ExecuteRequestSchema, ExecuteResponseSchema } from "../proto/contract/gen/rbs/v1/command_pb.ts";
import { Connection } from "../proto/transport/grpc/channel.ts";
import { encodeFields } from "../proto/base/protobuf_fields.ts";
import { type BidiCall, createRpcClient, RpcError } from "../proto/transport/rpc/client.ts";
import type { Credentials } from "../proto/identity/credentials.ts";
import type { CertificateOptions } from "../proto/testing/certificates.ts";
import { TestIssuer } from "../proto/testing/issuer.ts";
import { repoHash } from "../proto/bazel/workspace.ts";
import { shortLived } from "../tests/support/short_lived_jvm.ts";
import { shell } from "./namespace/shell.ts";
import { isRoot } from "./namespace/mount_namespace.ts";
import { type TempDir, tempDir } from "../tests/support/temp_dir.ts";

/** Names the agent in its certificate. */
const SESSION_ID = "5".repeat(32);
/** The user that namespaces of the unprivileged kind are tested with, when the tests run as root. */
const NOBODY = 65534;

/** A workspace with its own output base and storage, outside of /tmp (where linux-sandbox could not use them). */
export class TestWorkspace implements AsyncDisposable {
  readonly root: string;
  readonly workspace: string;
  readonly outputBase: string;
  readonly storage: string;
  readonly home: string;

  readonly #directory: TempDir;

  private constructor(directory: TempDir, name: string) {
    this.#directory = directory;
    const root = this.root = directory.path;
    this.workspace = join(root, name);
    this.outputBase = join(root, "dev", "ob");
    this.storage = join(root, "storage");
    this.home = join(root, "home");
  }

  /**
   * @param name The workspace's folder name.
   * @param directory Where all of it is.
   */
  static async make(name = "ws", build = "", directory = "/var/tmp"): Promise<TestWorkspace> {
    const it = new TestWorkspace(await tempDir("rbs-agent-test-", directory), name);
    for (const folder of [it.workspace, it.storage, it.home]) await Deno.mkdir(folder, { recursive: true });
    await Deno.writeTextFile(join(it.workspace, "WORKSPACE"), `workspace(name = "test")\n`);
    await Deno.writeTextFile(join(it.workspace, "BUILD"), build);
    const repositories = ["rules_cc", "rules_java", "rules_proto"];
    const mocks = "/usr/src/bazel-bootstrap/mock_repos";
    await Deno.writeTextFile(
      join(it.workspace, ".bazelrc"),
      repositories.map((r) => `common --override_repository=${r}=${mocks}/${r}\n`).join("") +
        "build --nosandbox_debug\n" + shortLived(true).map((option) => `startup --host_jvm_args=${option}\n`).join(""),
    );
    return it;
  }

  /** The startup options that Debian's Bazel 4.2.3 composes for this workspace. */
  startupOptions(
    changes: { installBase?: string; md5?: string; hostJvmArgs?: string[]; user?: string } = {},
  ): string[] {
    const installBase = changes.installBase ?? "/usr/share/bazel";
    const ob = this.outputBase;
    return [
      "-XX:+HeapDumpOnOutOfMemoryError",
      `-XX:HeapDumpPath=${ob}`,
      "--add-opens=java.base/java.nio=ALL-UNNAMED",
      "--add-opens=java.base/java.lang=ALL-UNNAMED",
      "-Xverify:none",
      `-Djava.util.logging.config.file=${ob}/javalog.properties`,
      "-Dcom.google.devtools.build.lib.util.LogHandlerQuerier.class=com.google.devtools.build.lib.util.SimpleLogHandler$HandlerQuerier",
      "-XX:-MaxFDLimit",
      `-Djava.library.path=${installBase}/`,
      "-Dfile.encoding=ISO-8859-1",
      ...shortLived(true),
      ...(changes.hostJvmArgs ?? []),
      "-jar",
      `${installBase}/A-server.jar`,
      "--max_idle_secs=10800",
      "--noshutdown_on_low_sys_mem",
      "--connect_timeout_secs=30",
      `--output_user_root=${join(this.home, `.cache/bazel/_bazel_${changes.user ?? "root"}`)}`,
      `--install_base=${installBase}`,
      `--install_md5=${changes.md5 ?? Deno.readTextFileSync("/usr/share/bazel/install_base_key")}`,
      `--output_base=${ob}`,
      `--workspace_directory=${this.workspace}`,
      "--default_system_javabase=/usr/lib/jvm/java-17-openjdk-amd64",
      `--failure_detail_out=${ob}/failure_detail.rawproto`,
      "--expand_configs_in_place",
      "--idle_server_tasks",
      "--write_command_log",
      "--nowatchfs",
      "--nofatal_event_bus_exceptions",
      "--nowindows_enable_symlinks",
      "--client_debug=false",
      ...shortLived(true).map((option) => `--host_jvm_args=${option}`),
      "--product_name=Bazel",
      "--noincompatible_enable_execution_transition",
      "--option_sources=install_Ubase:/etc/bazel/bazelrc:trust_Uinstall_Ubase:/etc/bazel/bazelrc",
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#directory[Symbol.asyncDispose]();
  }
}

/** How a {@link TestAgent} is started. */
export interface TestAgentOptions {
  startupOptions?: readonly string[];
  flags?: readonly string[];
  leaseSeconds?: number;
  /** Run as an ordinary user. */
  unprivileged?: boolean;
  env?: Record<string, string>;
  /** Replaces the storage directory. */
  storage?: string;
  /** Deno's permissions. @default all */
  permissions?: readonly string[];
  /** What the agent's certificates say. */
  certificates?: CertificateOptions;
  /** It gets no session: {@link TestAgent.spec} is for a test to assign. */
  blank?: boolean;
  /** Replaces the workspace's own path. */
  sourcePath?: string;
  /** Replaces the workspace's own output base. */
  defaultOutputBase?: string;
  limits?: MessageInitShape<typeof ResourceLimitsSchema>;
  /** The session has a network of its own. */
  unshareNet?: boolean;
  /** Where class-data archives are kept, up to {@link TestAgentOptions.maxClassArchives}. @default none are */
  classArchives?: string;
  /** @default 4 */
  maxClassArchives?: number;
  /** Folders that a session that is not synced must not see. */
  hidden?: readonly string[];
  /** Folders that a synced session must not see; undefined: it is not synced. */
  syncedWithout?: readonly string[];
}

/** The kinds of sessions that can be had here: whose they are, and how the agent is started for it. */
export const SESSION_KINDS: readonly [whose: string, options: TestAgentOptions][] = await isRoot()
  ? [
    ["of root, by bubblewrap", { flags: ["--namespace=bwrap"] }],
    ["of root, by unshare", { flags: ["--namespace=unshare"] }],
    ["of an ordinary user", { unprivileged: true }],
  ]
  : [["of an ordinary user", {}]];

/** What a command in the session did. */
export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** An agent as a process, with its log. */
export class TestAgent implements AsyncDisposable {
  readonly process: Deno.ChildProcess;
  readonly workspace: TestWorkspace;
  readonly port: number;
  readonly commandPort: number;
  readonly issuer: TestIssuer;
  readonly #callers: { user: Credentials; orchestrator: Credentials };
  #first?: Supervisor;
  log = "";
  epoch = 1;

  private constructor(
    process: Deno.ChildProcess,
    workspace: TestWorkspace,
    readonly spec: AgentSpec,
    /** The folder that it had before its session. */
    readonly folder: string,
    port: number,
    commandPort: number,
    issuer: TestIssuer,
    callers: { user: Credentials; orchestrator: Credentials },
  ) {
    this.issuer = issuer;
    this.#callers = callers;
    this.process = process;
    this.workspace = workspace;
    this.port = port;
    this.commandPort = commandPort;
  }

  /** Starts an agent and waits until it listens. */
  static async start(workspace: TestWorkspace, options: TestAgentOptions = {}): Promise<TestAgent> {
    const issuer = await TestIssuer.start({ kind: "agent", agentId: SESSION_ID }, options.certificates);
    const spec = create(AgentSpecSchema, {
      userId: "tester",
      repoHash: repoHash(workspace.workspace),
      sessionId: SESSION_ID,
      epoch: 1,
      sourcePath: options.sourcePath ?? workspace.workspace,
      startupOptions: [...options.startupOptions ?? []],
      storageDirectory: options.storage ?? workspace.storage,
      accessToken: "access",
      agentId: SESSION_ID,
      synced: options.syncedWithout !== undefined,
      hiddenPaths: [...options.syncedWithout ?? options.hidden ?? []],
      limits: options.limits,
      unshareNet: options.unshareNet,
      ...options.classArchives !== undefined && {
        classArchiveDirectory: options.classArchives,
        maxClassArchives: options.maxClassArchives ?? 4,
      },
      defaultOutputBase: options.defaultOutputBase ?? workspace.outputBase,
    });
    let command = [
      Deno.execPath(),
      "run",
      "--no-prompt",
      "--quiet",
      ...(options.permissions ?? ["-A"]),
      join(import.meta.dirname!, "main.ts"),
      ...(options.flags ?? []),
    ];
    const env: Record<string, string> = {
      HOME: workspace.home,
      PATH: Deno.env.get("PATH")!,
      LANG: "C.UTF-8",
      DENO_DIR: JSON.parse((await shell(`"$1" info --json`, [Deno.execPath()])).stdout).denoDir,
      ...options.env,
    };
    if (options.unprivileged) {
      // The program and its modules may be where only root can read: they are copied to where nobody can.
      const copy = join(workspace.root, "agent.js");
      const bundled = await shell(`cd "$1" && "$2" bundle --quiet -o "$3" agent/main.ts && chmod 644 "$3"`, [
        join(import.meta.dirname!, ".."),
        Deno.execPath(),
        copy,
      ]);
      if (bundled.code !== 0) throw new Error(bundled.stderr);
      await shell(`cp -- "$2" "$1/deno"; chown -R ${NOBODY}:${NOBODY} -- "$1"; chmod 755 "$1"`, [
        workspace.root,
        Deno.execPath(),
      ]);
      env.DENO_DIR = join(workspace.home, "deno");
      command = [
        ...["setpriv", "--reuid", String(NOBODY), "--regid", String(NOBODY), "--clear-groups"],
        ...[join(workspace.root, "deno"), "run", "--no-prompt", "--quiet", ...(options.permissions ?? ["-A"]), copy],
        ...(options.flags ?? []),
      ];
    }
    const process = new Deno.Command(command[0], {
      args: command.slice(1),
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      clearEnv: true,
      env,
      cwd: workspace.root,
    }).spawn();
    const writer = process.stdin.getWriter();
    const blank = create(BlankAgentSchema, {
      agentId: SESSION_ID,
      folder: await Deno.makeTempDir({ dir: workspace.root, prefix: "blank-" }),
      leaseSeconds: options.leaseSeconds ?? 60,
      ...issuer.spec(),
    });
    if (options.unprivileged) await Deno.chown(blank.folder, NOBODY, NOBODY);
    await writer.write(new TextEncoder().encode(toJsonString(BlankAgentSchema, blank) + "\n"));
    await writer.close();
    const log: string[] = [];
    const started: { agent?: TestAgent } = {};
    (async () => {
      for await (const text of process.stderr.pipeThrough(new TextDecoderStream())) {
        log.push(text);
        if (started.agent) started.agent.log += text;
        if (Deno.env.get("RBS_TEST_LOG")) console.error(text.trimEnd());
      }
    })();
    let line = "";
    for await (const text of process.stdout.pipeThrough(new TextDecoderStream())) {
      line += text;
      if (line.includes("\n")) break;
    }
    if (!line) throw new Error(`the agent did not start: ${(await process.status).code} ${log.join("")}`);
    const { port, commandPort } = fromJsonString(AgentListeningSchema, line);
    const agent = started.agent = new TestAgent(process, workspace, spec, blank.folder, port, commandPort, issuer, {
      user: await issuer.credentials({ kind: "user", userId: "tester" }),
      orchestrator: await issuer.credentials({ kind: "orchestrator" }),
    });
    agent.log = log.join("");
    if (!options.blank) await agent.assign();
    return agent;
  }

  /** Gives the agent its session. */
  async assign(): Promise<void> {
    const supervisor = this.#first = this.supervise();
    await supervisor.find((m) => m.case === "waiting");
    supervisor.call.send({ message: { case: "assign", value: this.spec } });
    await supervisor.find((m) => m.case !== "waiting");
  }

  /** A client with a token. @param credentials @default the session's owner's */
  client(token: string, credentials = this.#callers.user) {
    return createRpcClient(Agent, `127.0.0.1:${this.port}`, {
      token,
      tls: { credentials, expected: { kind: "agent", agentId: SESSION_ID } },
    });
  }

  /** Runs a command on the session's Bazel server, as a proxy does. @param args The command's, its name first. */
  async command(
    args: readonly string[],
  ): Promise<{ exitCode: number; stdout: string; stderr: string; execRequest: boolean }> {
    using connection = new Connection("127.0.0.1", this.commandPort, {
      tls: { credentials: () => this.#callers.user, expected: { kind: "agent", agentId: SESSION_ID } },
    });
    const { workspace } = this.workspace;
    const call = await connection.call("/rbs.v1.Command/Execute", {
      authorization: "Bearer access",
      "rbs-epoch": String(this.epoch),
    });
    const [name, ...more] = args;
    const all = [name, "--rc_source=client", "--default_override=0:common=--isatty=0", ...more];
    // The cookie's field stands there empty, as the proxy sends it.
    const fields = encodeFields([
      ...[...all, `--client_cwd=${workspace}`, "--client_env=PATH=/usr/bin:/bin"].map((
        arg,
      ): [number, string] => [2, arg]),
      [4, "pid=1"],
    ]);
    const start = { commandId: crypto.randomUUID(), runRequest: new Uint8Array([0x0a, 0, ...fields]) };
    const say = (message: MessageInitShape<typeof ExecuteRequestSchema>["message"]) =>
      call.send(toBinary(ExecuteRequestSchema, create(ExecuteRequestSchema, { message })));
    say({ case: "start", value: start });
    const result = { exitCode: -1, stdout: "", stderr: "", execRequest: false };
    for await (const bytes of call.responses()) {
      const { message, sequence } = fromBinary(ExecuteResponseSchema, bytes);
      say({ case: "acknowledge", value: sequence });
      if (message.case !== "runResponse") continue;
      const response = fromBinary(RunResponseSchema, message.value);
      result.stdout += new TextDecoder().decode(response.standardOutput);
      result.stderr += new TextDecoder().decode(response.standardError);
      if (response.finished) result.exitCode = response.exitCode;
      result.execRequest ||= response.execRequest !== undefined;
    }
    return result;
  }

  /** The call in which the agent got its session, at first; then, each time, another one. */
  supervise(): Supervisor {
    const first = this.#first;
    this.#first = undefined;
    if (first) return first;
    const client = this.client("", this.#callers.orchestrator);
    return new Supervisor(client.supervise(), () => client.close());
  }

  /** Starts a command. */
  execute(init: MessageInitShape<typeof CommandInitSchema>, token = "access"): TestCommand {
    const client = this.client(token);
    const call = client.executeCommand({ metadata: { "rbs-epoch": String(this.epoch) } });
    call.send({
      message: {
        case: "init",
        value: {
          workingDirectory: this.workspace.workspace,
          ...init,
          env: { HOME: this.workspace.home, PATH: Deno.env.get("PATH")!, ...init.env as CommandInit["env"] },
        },
      },
    });
    return new TestCommand(call, () => client.close());
  }

  /** Runs a command with an empty standard input to its end. */
  async run(args: string[], init: MessageInitShape<typeof CommandInitSchema> = {}): Promise<CommandResult> {
    const command = this.execute({ ...init, args });
    command.end();
    return await command.result;
  }

  /** Runs a shell script in the session. */
  async sh(script: string): Promise<string> {
    return (await this.run(["/bin/bash", "-c", script])).stdout.trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.process.status;
    this.#first?.[Symbol.dispose]();
    await this.issuer[Symbol.asyncDispose]();
    await this.process.stdout.cancel().catch(() => {});
  }
}

/** A supervising client: reads all messages, and lets a test wait for one. */
export class Supervisor implements Disposable {
  readonly messages: SuperviseResponse["message"][] = [];
  readonly call: BidiCall<typeof Agent.method.supervise.input, typeof Agent.method.supervise.output>;
  /** How the stream ended. */
  readonly over: Promise<RpcError | undefined>;
  readonly #close: () => void;
  #wake: () => void = () => {};
  #ended = false;

  constructor(call: Supervisor["call"], close: () => void) {
    this.call = call;
    this.#close = close;
    call.send({ message: { case: "setEpoch", value: { epoch: 1, term: 1 } } });
    this.over = (async () => {
      try {
        for await (const { message } of call) {
          this.messages.push(message);
          this.#wake();
        }
      } catch (e) {
        return RpcError.from(e);
      } finally {
        this.#ended = true;
        this.#wake();
      }
    })();
  }

  /** Waits for a message that `matches`, from the first one on. */
  async find(matches: (message: SuperviseResponse["message"]) => boolean): Promise<SuperviseResponse["message"]> {
    for (let i = 0;; i++) {
      while (i >= this.messages.length) {
        if (this.#ended) throw new Error(`the stream ended after ${JSON.stringify(this.messages)}`);
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
      if (matches(this.messages[i])) return this.messages[i];
    }
  }

  /** Waits for ready, or throws the reason of a failure. */
  async ready(): Promise<AgentReady> {
    const { case: kind, value } = await this.find((m) => m.case === "ready" || m.case === "failed");
    if (kind === "failed") throw new Error(value.reason);
    return value as AgentReady;
  }

  /** Waits until `running` commands were reported after `from` messages. */
  async activity(running: number, from = 0): Promise<void> {
    let i = 0;
    await this.find((m) => i++ >= from && m.case === "activity" && m.value.runningCommands === running);
  }

  [Symbol.dispose](): void {
    this.call.cancel();
    this.#close();
  }
}

/** A command in the session. */
export class TestCommand implements Disposable {
  stdout = "";
  stdoutBytes = 0;
  stderr = "";
  readonly call: BidiCall<typeof Agent.method.executeCommand.input, typeof Agent.method.executeCommand.output>;
  readonly result: Promise<CommandResult>;
  readonly #close: () => void;
  #wake: () => void = () => {};

  constructor(call: TestCommand["call"], close: () => void) {
    this.call = call;
    this.#close = close;
    this.result = this.#read();
    this.result.catch(() => {});
  }

  async send(text: string): Promise<void> {
    await this.call.send({ message: { case: "stdin", value: new TextEncoder().encode(text) } });
  }

  async signal(name: string): Promise<void> {
    await this.call.send({ message: { case: "signal", value: name } });
  }

  end(): void {
    this.call.send({ message: { case: "stdinClosed", value: {} } });
  }

  /** Waits for text in either output. */
  async says(text: string): Promise<void> {
    let over = false;
    this.result.catch(() => {}).finally(() => {
      over = true;
      this.#wake();
    });
    while (!this.stdout.includes(text) && !this.stderr.includes(text)) {
      if (over) throw new Error(`the command ended without ${text}: ${this.stdout}${this.stderr}`);
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  async #read(): Promise<CommandResult> {
    const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
    let code: number | undefined;
    try {
      for await (const { message } of this.call) {
        if (message.case === "exitCode") {
          code = message.value;
          this.call.end();
        }
        if (message.case === "stdout") {
          this.stdoutBytes += message.value.length;
          // Long outputs are only counted.
          if (this.stdoutBytes < 1 << 20) this.stdout += decoders.stdout.decode(message.value, { stream: true });
        } else if (message.case === "stderr") this.stderr += decoders.stderr.decode(message.value, { stream: true });
        this.#wake();
      }
      if (code === undefined) throw new Error("the call ended without an exit code");
      return { code, stdout: this.stdout, stderr: this.stderr };
    } finally {
      this.#close();
    }
  }

  [Symbol.dispose](): void {
    this.call.cancel();
    this.#close();
  }
}
