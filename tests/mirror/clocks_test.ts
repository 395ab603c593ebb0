/** A laptop whose clock is not that of the machine with the orchestrator and its agents. */
import assert from "node:assert/strict";
import { PROGRAMS } from "../support/repository.ts";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { Exit, rig, test } from "./support/rig.ts";

/** Shifts the wall clock of a process by as many seconds as stand in the file $RBS_TEST_CLOCK when it starts. */
const SHIFTED_CLOCK = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

static long shift;

__attribute__((constructor)) static void read_shift(void) {
  const char *name = getenv("RBS_TEST_CLOCK");
  FILE *file = name ? fopen(name, "r") : NULL;
  if (!file) return;
  if (fscanf(file, "%ld", &shift) != 1) shift = 0;
  fclose(file);
  // Deno starts no program whose environment has it.
  if (strcmp(program_invocation_short_name, "deno") == 0) unsetenv("LD_PRELOAD");
}

int clock_gettime(clockid_t id, struct timespec *time) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, time);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) time->tv_sec += shift;
  return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int result = real(time, zone);
  time->tv_sec += shift;
  return result;
}
`;

test("five minutes between two clocks do not matter, and more is refused with both of them named", async () => {
  await using tools = await tempDir("rbs-clock-");
  const [library, clock, agent] = ["clock.so", "clock", "agent"].map((name) => tools.join(name));
  await Deno.writeTextFile(tools.join("clock.c"), SHIFTED_CLOCK);
  const compiled = await run(["gcc", "-shared", "-fPIC", "-O", "-o", library, tools.join("clock.c"), "-ldl"]);
  assert.equal(compiled.code, 0, compiled.stderr);
  const environment = { LD_PRELOAD: library, RBS_TEST_CLOCK: clock };
  // Agents do not get their orchestrator's environment.
  const exports = Object.entries(environment).map(([name, value]) => `export ${name}=${value}\n`).join("");
  await Deno.writeTextFile(agent, `#!/bin/sh\n${exports}exec ${PROGRAMS.agent} "$@"\n`, { mode: 0o755 });
  await Deno.writeTextFile(clock, "-290");
  await using one = await rig({ args: [`--agent=${agent}`], agentEnv: environment });
  const { cluster } = one;
  await one.buildsQuickly();

  const restart = async (seconds: string) => {
    await one.run(["shutdown"]);
    await cluster!.stop();
    await Deno.writeTextFile(clock, seconds);
    await cluster!.restart();
  };
  // The other way round the authority that the first one has made would not be valid yet.
  await restart("290");
  await one.buildsQuickly();

  await restart("3600");
  const far = await one.run(["build", "//:quick"]);
  assert.equal(far.code, Exit.LOCAL_ENVIRONMENT, far.stderr);
  const said = far.stderr.split("\n").filter((line) => line.startsWith("rbs: The agent at"));
  assert.equal(said.length, 1, far.stderr);
  const clocks = /this machine's clock says (\S+Z), and the orchestrator's (\S+Z); correct the clock/.exec(said[0]);
  assert(clocks, said[0]);
  const apart = Date.parse(clocks[2]) - Date.parse(clocks[1]);
  assert(Math.abs(apart - 3_600_000) < 60_000, said[0]);
  assert.doesNotMatch(far.stderr, /The next command starts a new one/);
});
