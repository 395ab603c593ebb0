/** Our programs with a command port in plain text: there is no such mode, so they are made from a copy of the sources. */
import { join } from "node:path";
import { ROOT } from "../../support/repository.ts";
import { output } from "../../support/run.ts";
import { copyTree } from "../../support/workspace.ts";

/** Makes agent and proxy in a folder, which must be there. */
export async function makePlainPrograms(folder: string): Promise<{ agent: string; javabase: string }> {
  for (const name of ["proto", "proxy", "agent", "orchestrator", "tools"]) {
    await copyTree(join(ROOT, name), join(folder, name));
  }
  for (const name of ["deno.json", "deno.lock"]) await Deno.copyFile(join(ROOT, name), join(folder, name));
  for (const [name, to] of [["client.ts", "client.ts"], ["listener.ts", "plain_listener.ts"]]) {
    const text = await Deno.readTextFile(join(import.meta.dirname!, name));
    await Deno.writeTextFile(
      join(folder, "proto/transport/tls", to),
      text.replaceAll('"../../../proto/transport/', '"../').replaceAll('"../../../proto/', '"../../'),
    );
  }
  // The command port alone: what the orchestrator says goes by TLS as ever.
  const main = join(folder, "agent/main.ts");
  const text = await Deno.readTextFile(main);
  const plain = text.replace('"../proto/transport/tls/listener.ts"', '"../proto/transport/tls/plain_listener.ts"');
  if (plain === text) throw new Error("agent/main.ts does not import the listener of its command port any more");
  await Deno.writeTextFile(main, plain);
  await output([Deno.execPath(), "task", "--quiet", "compile", "agent", "proxy"], { cwd: folder, timeout: 300_000 });
  return { agent: join(folder, "dist/agent"), javabase: join(folder, "dist/javabase") };
}
