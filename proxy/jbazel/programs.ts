import { withoutLinkerVariables } from "./environment.ts";

/** How a program ended. */
export interface ProgramResult {
  /** "missing": the program does not exist, or jbazel may not run it. */
  outcome: "ran" | "missing" | "timeout";
  /** 0 to 255; -1 if it did not start. */
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, without input. Never rejects. */
export type RunProgram = (program: string, args: string[], timeoutMs?: number) => Promise<ProgramResult>;

/** The real {@link RunProgram}. */
export const runProgram: RunProgram = async (program, args, timeoutMs = 20_000) => {
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const env = withoutLinkerVariables(Deno.env.toObject());
    const command = new Deno.Command(program, {
      args,
      clearEnv: true,
      env,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      signal,
    });
    const { code, stdout, stderr } = await command.output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { outcome: signal.aborted ? "timeout" : "ran", code, stdout: decode(stdout), stderr: decode(stderr) };
  } catch {
    return { outcome: signal.aborted ? "timeout" : "missing", code: -1, stdout: "", stderr: "" };
  }
};
