import assert from "node:assert/strict";
import { clientShellOptions, isClientShellOption, readClientShell } from "./client_shell.ts";

Deno.test("limits, umask and locale of a shell travel as options, and nothing else of its environment", () => {
  const options = clientShellOptions("0 unlimited 8192 unlimited 1024 4096 0027", {
    LANG: "de_DE.UTF-8",
    LC_ALL: "C.UTF-8",
    LCX: "no",
    SECRET: "s",
  });
  assert(options.every(isClientShellOption));
  assert(!isClientShellOption("-Drbs.test=1"), "a property of the user's own");
  assert.deepEqual(readClientShell(["-jar", ...options, "--batch"]), {
    limits: [
      { letter: "c", soft: "0", hard: "unlimited" },
      { letter: "s", soft: "8192", hard: "unlimited" },
      { letter: "n", soft: "1024", hard: "4096" },
    ],
    umask: "0027",
    locale: { LANG: "de_DE.UTF-8", LC_ALL: "C.UTF-8" },
  });
  assert.deepEqual(clientShellOptions("", { LANG: "C" }), []);
  assert.deepEqual(readClientShell(["-jar"]), { limits: [], umask: undefined, locale: undefined });
});

Deno.test("what is no limit, umask or locale is left out", () => {
  const bad = ["limit.c=$(id):1", "limit.n=1", "limit.v=1:1", "umask=0;id", "locale.LC_ALL=a b", "locale.PATH=x", ""];
  assert.deepEqual(readClientShell(bad.map((b) => `-Drbs.client-shell.${b}`)), {
    limits: [],
    umask: undefined,
    locale: {},
  });
});
