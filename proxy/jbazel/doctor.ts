import { RbsError, sentence } from "../../proto/base/errors.ts";
import { CHECKS, type DoctorContext, type Finding } from "./checks.ts";
import { type NamedFinding, nextStep, renderReport } from "./doctor_report.ts";
import { Progress, type ProgressOutput } from "./progress.ts";
import { findStanding } from "./standing.ts";

/** Options of {@link runDoctor}. */
export interface DoctorOptions extends Omit<DoctorContext, "standing"> {
  json: boolean;
  say(line: string): void;
  progress: ProgressOutput;
}

/** Runs all checks and shows the findings. @returns the exit code: 1 if a check failed */
export async function runDoctor(options: DoctorOptions): Promise<number> {
  const { say } = options;
  const findings = withoutRepetitions(await runChecks(options));
  const failed = findings.some((f) => f.level === "FAIL");
  const next = nextStep(findings, options);
  if (options.json) {
    const checks = findings.map((f) => ({ ...f, fix: f.fix ?? null, command: f.command ?? null }));
    say(JSON.stringify({ ok: !failed, checks, next }, null, 2));
  } else {
    for (const line of renderReport(findings, next)) say(line);
  }
  return failed ? 1 : 0;
}

async function runChecks(options: DoctorOptions): Promise<NamedFinding[]> {
  const context: DoctorContext = { ...options, standing: await findStanding(options.settings) };
  const pending = new Set(CHECKS.map(([name]) => name));
  using progress = new Progress(options.progress, "checking this machine");
  return await Promise.all(CHECKS.map(async ([name, check]): Promise<NamedFinding> => {
    try {
      return { name, ...await check(context) };
    } catch (e) {
      return { name, ...unexpected(e) };
    } finally {
      pending.delete(name);
      // Where lines are not redrawn, one is enough.
      const isRedrawn = options.progress.columns() !== undefined;
      if (isRedrawn && pending.size > 0) progress.step(`checking ${[...pending].join(", ")}`);
    }
  }));
}

function unexpected(e: unknown): Finding {
  const fix = e instanceof RbsError ? undefined : "run again with RBS_DEBUG=1";
  return { level: "FAIL", text: sentence(e), fix };
}

/** Reports each cause once: a finding with the same text as an earlier one only refers to it. */
function withoutRepetitions(findings: NamedFinding[]): NamedFinding[] {
  return findings.map((f, i) => {
    const first = findings.findIndex((other) => other.level === f.level && other.text === f.text);
    if (first === i || (f.level !== "FAIL" && f.level !== "warn")) return f;
    return { name: f.name, level: "skip", text: `see "${findings[first].name}"` };
  });
}
