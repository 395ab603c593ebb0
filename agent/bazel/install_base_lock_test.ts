import assert from "node:assert/strict";
import { join } from "node:path";
import { shell } from "../namespace/shell.ts";
import { TestAgent, TestWorkspace } from "../test_agent.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

/** A server as of Bazel 8.1 with `--lock_install_base`: it opens the lock, and ends if it cannot. Else it is Bazel's own. */
const JAVA = `#!/bin/bash
base= lock=
for word do
  shift
  case $word in
    --install_base=*) base=\${word#*=} ;;
    --lock_install_base) lock=1; continue ;;
  esac
  set -- "$@" "$word"
done
if [[ -n $lock ]] && ! exec 9<>"$base.lock"; then echo "ERROR: cannot lock the install base" >&2; exit 36; fi
exec /usr/lib/jvm/java-17-openjdk-amd64/bin/java "$@"
`;

/** Makes an install base like Debian's. */
async function makeInstallBase(base: string): Promise<void> {
  await shell(
    `mkdir -p -- "$1/embedded_tools/jdk/bin" && ln -s /usr/share/bazel/[!e]* "$1" &&
    for file in /usr/share/bazel/e*; do [[ $file == */embedded_tools ]] || ln -s "$file" "$1"; done`,
    [base],
  );
  await Deno.writeTextFile(join(base, "embedded_tools/jdk/bin/java"), JAVA, { mode: 0o755 });
}

Deno.test("a server locks its install base where it may write the lock, and starts all the same where it may not", async () => {
  const isRoot = Deno.uid() === 0;
  // A session of root can write in /var/tmp, and of the rest of the machine it is nobody.
  for (const [isWritable, parent] of [[true, "/var/tmp"], [false, isRoot ? "/" : "/var/tmp"]] as const) {
    await using workspace = await TestWorkspace.make();
    await using folder = await tempDir(undefined, parent);
    const base = folder.join("base");
    await makeInstallBase(base);
    await Deno.chmod(folder.path, isWritable ? 0o755 : 0o555);
    const startupOptions = [...workspace.startupOptions({ installBase: base }), "--lock_install_base"];
    await using agent = await TestAgent.start(workspace, { startupOptions });
    using supervisor = agent.supervise();
    await supervisor.ready();
    const isThere = await Deno.stat(`${base}.lock`).then(() => true, () => false);
    assert.equal(isThere, isWritable);
    const server = await agent.sh(`tr '\\0' '\\n' <'${workspace.outputBase}/server/cmdline' | grep -c lock_install`);
    assert.equal(server, "1", "a client inside compares what the developer's client has composed");
  }
});
