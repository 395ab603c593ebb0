/** Sessions for attacks from within: an agent as a process of its own, and programs that do what they like in it. */
import { Buffer } from "node:buffer";
import {
  type CommandResult,
  type Supervisor,
  TestAgent,
  type TestAgentOptions,
  TestWorkspace,
} from "../../agent/test_agent.ts";
import { isAlive } from "../mirror/support/processes.ts";

/** A kind of namespace. */
export interface SessionKind {
  /** Whose it is, for a test's name. */
  whose: string;
  options: TestAgentOptions;
  /** Its user's processes can be put into a control group here. */
  grouped: boolean;
}

/** All that this test's user can make: with root, those of an ordinary user as well. */
export const KINDS: readonly SessionKind[] = Deno.uid() === 0
  ? [
    { whose: "of root, by bubblewrap,", options: { flags: ["--namespace=bwrap"] }, grouped: true },
    { whose: "of root, by unshare,", options: { flags: ["--namespace=unshare"] }, grouped: true },
    { whose: "of an ordinary user", options: { unprivileged: true }, grouped: false },
  ]
  : [{ whose: "of an ordinary user", options: {}, grouped: false }];

/** A session in which an attack is made. */
export interface Session {
  agent: TestAgent;
  workspace: TestWorkspace;
  supervisor: Supervisor;
  /** What the developer would be told of it. */
  warnings: string[];
  /** Runs a program of perl in the session, to its end. */
  perl(program: string, ...args: string[]): Promise<CommandResult>;
  /** Whether the agent is there, and serves: a command goes through it. */
  serves(): Promise<boolean>;
}

/** How a session is made. */
export interface SessionOptions extends TestAgentOptions {
  workspace?: TestWorkspace;
  /** Agent and laptop share no disk. @default false */
  synced?: boolean;
}

/** Makes a session, and ends it when `attack` is over. */
export async function inSession(
  kind: SessionKind,
  { workspace: given, synced = false, ...options }: SessionOptions,
  attack: (session: Session) => Promise<void>,
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  // The folders of the system are in a synced session the machine's own, /var among them.
  const directory = !synced ? "/var/tmp" : Deno.uid() === 0 ? "/" : Deno.env.get("HOME")!;
  const workspace = given ?? stack.use(await TestWorkspace.make("ws", "", directory));
  const agent = stack.use(
    await TestAgent.start(workspace, { ...synced ? { syncedWithout: [] } : {}, ...kind.options, ...options }),
  );
  using supervisor = agent.supervise();
  const { warnings } = await supervisor.ready();
  await attack({
    ...{ agent, workspace, supervisor, warnings },
    perl: (program, ...args) => agent.run(["/usr/bin/perl", "-e", program, ...args]),
    serves: async () => await isAlive(agent.process.pid) && await agent.sh("echo serves") === "serves",
  });
}

/** A literal of perl. */
export function quoted(text: string): string {
  return `pack("H*", "${Buffer.from(text).toString("hex")}")`;
}
