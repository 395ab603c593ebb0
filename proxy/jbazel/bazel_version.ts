/** Bazel's versions, and conditions on them in `try-import-if-bazel-version` lines (Bazel 9.0.0 `rc_file.cc`). */
import type { RunProgram } from "./programs.ts";

/** A semantic version. */
export interface SemVer {
  /** Major, minor, patch. */
  numbers: [number, number, number];
  /** The parts after the dash; empty for a release. */
  prerelease: string[];
}

const NUMBER = "(0|[1-9]\\d*)";
const PART = "(?:0|[1-9]\\d*|\\d*[a-zA-Z-][0-9a-zA-Z-]*)";
const SEMVER = new RegExp(
  `^${NUMBER}\\.${NUMBER}\\.${NUMBER}(?:-(${PART}(?:\\.${PART})*))?(?:\\+[0-9a-zA-Z-]+(?:\\.[0-9a-zA-Z-]+)*)?$`,
);

/** Parses a version. Undefined for anything else, such as "no_version" (Debian's Bazel) and "9.0.0rc1". */
export function parseSemVer(text: string): SemVer | undefined {
  const [, major, minor, patch, prerelease] = SEMVER.exec(text) ?? [];
  if (major === undefined) return undefined;
  return { numbers: [Number(major), Number(minor), Number(patch)], prerelease: prerelease?.split(".") ?? [] };
}

/** Negative, zero or positive if `a` comes before, with or after `b`. What follows a "+" is ignored. */
export function compareSemVer(a: SemVer, b: SemVer): number {
  const at = a.numbers.findIndex((n, i) => n !== b.numbers[i]);
  if (at >= 0) return a.numbers[at] - b.numbers[at];
  // A release comes after its pre-releases.
  if (a.prerelease.length === 0 || b.prerelease.length === 0) return b.prerelease.length - a.prerelease.length;
  for (let i = 0; i < Math.min(a.prerelease.length, b.prerelease.length); i++) {
    const order = comparePart(a.prerelease[i], b.prerelease[i]);
    if (order !== 0) return order;
  }
  return a.prerelease.length - b.prerelease.length;
}

/** Numbers come before words. */
function comparePart(a: string, b: string): number {
  const [na, nb] = [a, b].map((part) => /^\d+$/.test(part));
  if (na !== nb) return na ? -1 : 1;
  if (na) return Number(a) - Number(b);
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Whether a version satisfies a condition such as ">=8.0.0" or "~8.2". Undefined if the condition is malformed. */
export function fulfils(version: SemVer, condition: string): boolean | undefined {
  const [, operator, text] = /^(<=?|>=?|==|!=|~)(\S+)$/.exec(condition) ?? [];
  if (operator === undefined) return undefined;
  const given = text.split(".").length;
  const other = parseSemVer(operator === "~" && given < 3 ? `${text}${".0".repeat(3 - given)}` : text);
  if (!other) return undefined;
  const order = compareSemVer(version, other);
  switch (operator) {
    case "<":
      return order < 0;
    case "<=":
      return order <= 0;
    case ">":
      return order > 0;
    case ">=":
      return order >= 0;
    case "==":
      return order === 0;
    case "!=":
      return order !== 0;
    default: {
      const [major, minor] = other.numbers;
      const end: SemVer = { numbers: given === 1 ? [major + 1, 0, 0] : [major, minor + 1, 0], prerelease: [] };
      return order >= 0 && compareSemVer(version, end) < 0;
    }
  }
}

/** Whether the Bazel with this label (from `bazel --version`) follows a line with this condition. */
export function followsConditional(label: string, condition: string): boolean {
  const version = parseSemVer(label);
  // Without a proper version Bazel ignores such lines.
  if (!version || !knowsConditionals(version)) return false;
  return fulfils(version, condition) ?? false;
}

/** Whether a version supports such lines: since 8.7.0, and since 9.0.0 but not in its pre-releases. */
function knowsConditionals(version: SemVer): boolean {
  return Boolean(fulfils(version, version.numbers[0] === 8 ? ">=8.7.0" : ">=9.0.0"));
}

/** The label of the `bazel` on the PATH, such as "8.7.0". Undefined if there is none, or it does not answer. */
export async function localBazelLabel(run: RunProgram): Promise<string | undefined> {
  const { outcome, code, stdout } = await run("bazel", ["--version"]);
  return outcome === "ran" && code === 0 ? /^bazel (\S+)/m.exec(stdout)?.[1] : undefined;
}
