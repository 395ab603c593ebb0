import assert from "node:assert/strict";
import { Progress } from "./progress.ts";

function setUp() {
  let now = 5_000;
  const lines: string[] = [];
  return {
    lines,
    pass: (ms: number) => void (now += ms),
    progress: new Progress((l) => lines.push(l), { now: () => now }),
  };
}

Deno.test("what takes less than a second is silent", () => {
  const { lines, pass, progress } = setUp();
  progress.look("looking at the workspace");
  pass(999);
  progress.looked(10);
  progress.begin(5, 1e6);
  progress.sent(5, 1e6);
  progress.finish();
  assert.deepEqual(lines, []);
});

Deno.test("one file is one file", () => {
  const { lines, pass, progress } = setUp();
  pass(1_000);
  progress.looked(1);
  progress.begin(1, 900e6);
  pass(1_000);
  progress.sent(0, 0);
  progress.sent(1, 900e6);
  progress.finish();
  assert.deepEqual(lines, [
    "rbs: looking at the workspace, 1 file 1.0s\n",
    "rbs: syncing 0 of 1 file, 0 of 900 MB\n",
    "rbs: synced 1 file, 900 MB, in 2.0 s\n",
  ]);
});

Deno.test("while it is not known how much there is, what was found counts as the least", () => {
  const { lines, pass, progress } = setUp();
  progress.begin(0, 0, { complete: false });
  progress.more(2_000, 20e6);
  pass(1_000);
  progress.sent(1_000, 10e6);
  progress.more(2_000, 20e6);
  progress.complete();
  pass(1_000);
  progress.sent(1_000, 10e6);
  assert.deepEqual(lines, [
    "rbs: syncing 1,000 of at least 2,000 files, 10 of 20 MB\n",
    "rbs: syncing 2,000 of 4,000 files, 20 of 40 MB, 2 s left\n",
  ]);
});

Deno.test("what takes longer shows a line each second, and a last one", () => {
  const { lines, pass, progress } = setUp();
  progress.look("looking at the workspace");
  pass(1_200);
  progress.looked(12_345);
  progress.begin(80_000, 900e6);
  pass(500);
  progress.sent(1_000, 10e6);
  for (let i = 0; i < 5; i++) {
    pass(1_000);
    progress.sent(2_269, 60e6);
  }
  progress.finish();
  assert.deepEqual(lines, [
    "rbs: looking at the workspace, 12,345 files 1.2s\n",
    "rbs: syncing 3,269 of 80,000 files, 70 of 900 MB, 24 s left\n",
    "rbs: syncing 5,538 of 80,000 files, 130 of 900 MB, 21 s left\n",
    "rbs: syncing 7,807 of 80,000 files, 190 of 900 MB, 19 s left\n",
    "rbs: syncing 10,076 of 80,000 files, 250 of 900 MB, 18 s left\n",
    "rbs: syncing 12,345 of 80,000 files, 310 of 900 MB, 17 s left\n",
    "rbs: synced 12,345 files, 310 MB, in 6.7 s\n",
  ]);
});

Deno.test("a long wait in which nothing can be counted says so less and less often", () => {
  const { lines, pass, progress } = setUp();
  progress.look("syncing again after the connection was lost");
  for (let second = 0; second < 60; second++) {
    pass(1_000);
    progress.tick();
  }
  const times = lines.map((line) => Number(/([\d.]+)s\n$/.exec(line)![1]));
  assert.deepEqual(times, [1, 2, 3, 4, 5, 6, 7, 8, 9, 19, 29, 39, 49, 59]);
});

Deno.test("the last line counts all of a sync, also what came before its last step", () => {
  const { lines, pass, progress } = setUp();
  progress.begin(0, 0, { complete: false });
  progress.more(20_001, 80e6);
  progress.sent(20_001, 80e6);
  pass(1_000);
  progress.look("comparing with the agent's files");
  progress.looked(20_001);
  progress.begin(183, 1e6);
  progress.sent(183, 1e6);
  progress.look("looking at the workspace");
  progress.finish();
  assert.deepEqual(lines.slice(1), ["rbs: synced 20,184 files, 81 MB, in 1.0 s\n"]);
});
