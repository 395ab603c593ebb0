import { findWorkspace } from "../../proto/bazel/workspace.ts";
import type { Finding } from "./checks.ts";
import { oneLine } from "./progress.ts";
import { renderTable } from "./table.ts";

/** A finding with the name of its check. */
export type NamedFinding = Finding & { name: string };

/** The user's next step. */
export interface NextStep {
  /** What must be done by hand first; null if nothing. */
  first: string | null;
  /** The command line to run. */
  command: string;
}

/** The next step: what fixes the first failure, or a build if nothing failed. */
export function nextStep(
  findings: NamedFinding[],
  { self, workingDirectory }: { self: string; workingDirectory: string },
): NextStep {
  const failures = findings.filter((f) => f.level === "FAIL");
  if (failures.length > 0) {
    const { command, fix, text } = failures[0];
    return command ? { first: null, command } : { first: fix ?? `fix this: ${text}`, command: `${self} doctor` };
  }
  if (!findWorkspace(workingDirectory)) return { first: "change to a workspace", command: `${self} build //...` };
  const isSetUp = findings.some((f) => f.name === "bazelrc" && f.level === "ok");
  return { first: null, command: `${isSetUp ? "bazel" : self} build //...` };
}

/** The lines of the report: what is fine, what would be better, what must be fixed, and the next command. */
export function renderReport(findings: NamedFinding[], next: NextStep): string[] {
  const of = (level: Finding["level"]) => findings.filter((f) => f.level === level);
  const [failures, warnings] = [of("FAIL"), of("warn")];
  return [
    ...section("Fine:", of("ok")),
    ...section("Not looked at:", of("skip")),
    ...groups("Would be better:", warnings),
    ...groups("Must be fixed:", failures),
    summary(failures.length, warnings.length),
    "",
    next.first ? `Next, ${oneLine(next.first)}; then run` : "Next, run",
    "",
    `    ${next.command}`,
  ];
}

function section(title: string, findings: NamedFinding[]): string[] {
  if (findings.length === 0) return [];
  return [title, ...rows(findings).map((row) => `  ${row}`), ""];
}

function rows(findings: NamedFinding[]): string[] {
  return renderTable(findings.map((f) => [f.name, oneLine(f.text)]));
}

/** Groups the findings by remedy, since one remedy may fix several. */
function groups(title: string, findings: NamedFinding[]): string[] {
  if (findings.length === 0) return [];
  const byDeed = Map.groupBy(findings, (f) => f.command ?? f.fix ?? f.name);
  const lines = [...byDeed.values()].flatMap((group) => [
    ...rows(group).map((row) => `  ${row}`),
    ...deed(group[0]),
  ]);
  return [title, ...lines, ""];
}

function deed({ fix, command }: Finding): string[] {
  return [...fix ? [`    -> ${oneLine(fix)}`] : [], ...command ? [`       ${command}`] : []];
}

function summary(failures: number, warnings: number): string {
  const count = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
  return failures || warnings ? `${count(failures, "failure")}, ${count(warnings, "warning")}.` : "All is well.";
}
