import assert from "node:assert/strict";
import { compareSemVer, followsConditional, fulfils, localBazelLabel, parseSemVer } from "./bazel_version.ts";

Deno.test("versions are ordered as semver.org orders them", () => {
  const ordered = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0",
    "1.0.1",
  ];
  const versions = ordered.map((v) => parseSemVer(v)!);
  versions.forEach((a, i) =>
    versions.forEach((b, j) => assert.equal(Math.sign(compareSemVer(a, b)), Math.sign(i - j), `${i} ${j}`))
  );
  assert.equal(compareSemVer(parseSemVer("1.2.3+a")!, parseSemVer("1.2.3+b")!), 0);
  for (const none of ["no_version", "9.0.0rc1", "8.7", "08.1.0", ""]) assert.equal(parseSemVer(none), undefined, none);
});

Deno.test("each operator of a condition means what Bazel's documentation says", () => {
  const cases: [string, string, boolean | undefined][] = [
    ["8.7.0", "<8.7.0", false],
    ["8.7.0", "<=8.7.0", true],
    ["8.7.0", ">8.6.9", true],
    ["8.7.0", ">=8.7.0", true],
    ["8.7.0", "==8.7.0", true],
    ["8.7.0", "!=8.7.0", false],
    ["8.7.0", "~8", true],
    ["9.0.0", "~8", false],
    ["8.2.9", "~8.2", true],
    ["8.3.0", "~8.2", false],
    ["8.2.3", "~8.2.4", false],
    ["8.2.5", "~8.2.4", true],
    ["8.7.0", ">=8.7", undefined],
    ["8.7.0", "8.7.0", undefined],
    ["8.7.0", ">= 8.7.0", undefined],
  ];
  for (const [version, condition, expected] of cases) {
    assert.equal(fulfils(parseSemVer(version)!, condition), expected, `${version} ${condition}`);
  }
});

Deno.test("only a Bazel that knows such lines, and its own version, follows them", () => {
  for (const label of ["8.7.0", "8.8.1", "9.0.0", "10.0.0-pre.20260101.1"]) {
    assert.equal(followsConditional(label, ">=1.0.0"), true, label);
  }
  for (const label of ["8.6.0", "7.9.9", "9.0.0-pre.20251001.1", "9.0.0rc1", "no_version"]) {
    assert.equal(followsConditional(label, ">=1.0.0"), false, label);
  }
  assert.equal(followsConditional("9.0.0", "nonsense"), false);
});

Deno.test("the local Bazel tells its label", async () => {
  const label = (stdout: string, code = 0) =>
    localBazelLabel(() => Promise.resolve({ outcome: "ran", code, stdout, stderr: "" }));
  assert.equal(await label("bazel 8.7.0"), "8.7.0");
  assert.equal(await label("some wrapper speaks\nbazel no_version"), "no_version");
  assert.equal(await label("", 1), undefined);
  const missing = { outcome: "missing", code: -1, stdout: "", stderr: "" } as const;
  assert.equal(await localBazelLabel(() => Promise.resolve(missing)), undefined);
});
