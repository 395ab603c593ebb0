/** An authority that `openssl req -x509` made with its defaults: orchestrator, agent, proxy and user all work with it. */
import assert from "node:assert/strict";
import { opensslAuthority } from "../../orchestrator/testing/openssl_authority.ts";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { tempDir } from "../support/temp_dir.ts";
import { testWorkspace } from "../support/workspace.ts";

const { found: [bazel] } = await findBazels({ npm: false });

if (bazel) {
  Deno.test("a stock client builds where --ca-cert and --ca-key are those of openssl req -x509", async () => {
    await using directory = await tempDir("rbs-authority-");
    const { certificate, privateKey } = await opensslAuthority("/C=DE/O=Example/CN=Build authority");
    const [caCert, caKey] = ["ca.crt", "ca.key"].map((name) => directory.join(name));
    await Deno.writeTextFile(caCert, certificate);
    await Deno.writeTextFile(caKey, privateKey, { mode: 0o600 });
    await using cluster = await startCluster({ args: [`--ca-cert=${caCert}`, `--ca-key=${caKey}`] });
    const { serverJavabase, env } = cluster;
    await using workspace = await testWorkspace(bazel, { startupOptions: [serverJavabase], env });
    const { code, stderr } = await workspace.run(["build", "//:hello"]);
    assert.equal(code, 0, stderr);
  });
}
