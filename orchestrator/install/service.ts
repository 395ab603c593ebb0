/** An orchestrator that outlives the terminal it was started from. */

/** What runs in the background. */
export interface Service {
  /** The orchestrator's own program. Absolute. */
  readonly program: string;
  readonly args: readonly string[];
  /** Relative paths of `args` are relative to it. Absolute. */
  readonly workingDirectory: string;
  /** What it needs of the environment, where it does not inherit that. */
  readonly environment: Readonly<Record<string, string>>;
  /** The state directory, absolute: what tells services of one user apart. */
  readonly stateDirectory: string;
  /** What it prints is added to this file. Absolute. */
  readonly log: string;
}

/** Who starts and ends it. */
export interface ServiceManager {
  /** "systemd", …: for people. */
  readonly name: string;
  /** What becomes of it when the terminal is closed, the user logs out, and the machine is started again: a sentence. */
  readonly endurance: string;
  /** Whether a service was installed for this state directory, running or not. */
  isInstalled(): Promise<boolean>;
  /** The process, if it runs. */
  pid(): Promise<number | undefined>;
  /** Starts it, in the place of one that does not run. Throws an RbsError. */
  start(service: Service): Promise<void>;
  /** Ends it and waits for its end; it is not started again by itself. No service is fine. Throws an RbsError. */
  stop(): Promise<void>;
}

/** Runs a program to its end, without input. Never throws: what cannot be run has the code 127. */
export type Run = (program: string, args: readonly string[]) => Promise<{ code: number; output: string }>;

/** {@link Run} for real. */
export const runProgram: Run = async (program, args) => {
  try {
    const command = new Deno.Command(program, { args: [...args], stdin: "null", stdout: "piped", stderr: "piped" });
    const { code, stdout, stderr } = await command.output();
    return { code, output: (new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr)).trim() };
  } catch (e) {
    return { code: 127, output: e instanceof Error ? e.message : String(e) };
  }
};
