import assert from "node:assert/strict";
import { resolveInstall } from "./bazel_install.ts";
import type { SessionInit } from "../namespace/namespace_init.ts";

Deno.test("where no Java is, the sentence says on which machine", async () => {
  const init = {
    call: () => Promise.resolve({ code: 0, stdout: "/install\0\0", stderr: "" }),
  } as unknown as SessionInit;
  await assert.rejects(resolveInstall(init, ["--install_base=/install", "--install_md5=0"], []), {
    name: "RbsError",
    message: "No Java runs Bazel's server: neither /install/embedded_tools/jdk nor --default_system_javabase nor " +
      "JAVA_HOME has bin/java on the build server's machine; install a JDK there that this Bazel supports.",
  });
});
