import assert from "node:assert/strict";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import {
  locksInstallBase,
  serverName,
  withInstallBase,
  withoutIdleExit,
  withoutInstallBaseLock,
  withOutputBase,
} from "./server_argv.ts";

const OPTIONS = [
  "-XX:HeapDumpPath=/ob",
  "-Djava.util.logging.config.file=/ob/javalog.properties",
  "-Djava.library.path=/ib/",
  "-cp",
  "/ib/A-server.jar:/usr/share/java/x.jar",
  "com.google.devtools.build.lib.bazel.Bazel",
  "--max_idle_secs=10800",
  "--install_base=/ib",
  "--output_base=/ob",
  "--failure_detail_out=/ob/failure_detail.rawproto",
  "--workspace_directory=/ob-like/ws",
];

Deno.test("the last value of a flag counts", () => {
  assert.equal(startupOption(["--a=1", "--ab=2", "--a=3=4"], "a"), "3=4");
  assert.equal(startupOption(["--a"], "a"), undefined);
});

Deno.test("a server is named after its workspace's folder", () => assert.equal(serverName("/x/my ws"), "bazel(my ws)"));

Deno.test("all that names the output base is renamed, and nothing that only begins like it", () => {
  assert.deepEqual(withOutputBase(OPTIONS, "/ob", "/s/out"), [
    "-XX:HeapDumpPath=/s/out",
    "-Djava.util.logging.config.file=/s/out/javalog.properties",
    ...OPTIONS.slice(2, 8),
    "--output_base=/s/out",
    "--failure_detail_out=/s/out/failure_detail.rawproto",
    "--workspace_directory=/ob-like/ws",
  ]);
});

Deno.test("another install base replaces the jars, the library path and the flag", () => {
  assert.deepEqual(withInstallBase(OPTIONS, "/ib", "/other").slice(2, 8), [
    "-Djava.library.path=/other/",
    "-cp",
    "/other/A-server.jar:/usr/share/java/x.jar",
    "com.google.devtools.build.lib.bazel.Bazel",
    "--max_idle_secs=10800",
    "--install_base=/other",
  ]);
});

Deno.test("the agent's server does not end by idleness", () => {
  assert.equal(startupOption(withoutIdleExit(OPTIONS), "max_idle_secs"), "0");
});

Deno.test("the install base's lock is one option, and may be left out", () => {
  for (const lock of ["--lock_install_base", "--lock_install_base=1"]) {
    assert(locksInstallBase([...OPTIONS, lock]));
    assert.deepEqual(withoutInstallBaseLock([...OPTIONS, lock]), OPTIONS);
  }
  assert(!locksInstallBase([...OPTIONS, "--nolock_install_base"]));
});
