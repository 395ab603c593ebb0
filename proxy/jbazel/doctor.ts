import { RbsError, sentence } from "../../proto/base/errors.ts";
import { CHECKS, type DoctorContext, type Finding } from "./checks.ts";
import { oneLine } from "./progress.ts";
import { renderTable } from "./table.ts";

/** Runs every check and shows what it found. @returns the exit code: 1 if anything failed */
export async function runDoctor(context: DoctorContext & { json: boolean; say(line: string): void }): Promise<number> {
  const findings = await Promise.all(CHECKS.map(async ([name, check]): Promise<Finding & { name: string }> => {
    try {
      return { name, ...await check(context) };
    } catch (e) {
      return {
        name,
        level: "FAIL",
        text: sentence(e),
        fix: e instanceof RbsError ? undefined : "run again with RBS_DEBUG=1",
      };
    }
  }));
  const failed = findings.filter((f) => f.level === "FAIL").length;
  if (context.json) {
    context.say(
      JSON.stringify({ ok: failed === 0, checks: findings.map((f) => ({ ...f, fix: f.fix ?? null })) }, null, 2),
    );
  } else {
    const rows = findings.map((f) => [f.level, f.name, oneLine(f.fix ? `${f.text} -> ${f.fix}` : f.text)]);
    for (const line of renderTable(rows)) context.say(line);
    const warnings = findings.filter((f) => f.level === "warn").length;
    const count = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
    context.say("");
    context.say(failed || warnings ? `${count(failed, "failure")}, ${count(warnings, "warning")}.` : "All is well.");
  }
  return failed > 0 ? 1 : 0;
}
