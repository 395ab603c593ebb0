/**
 * npm packages that cannot be bundled, since they read files of their own: a folder with all that they need, from which
 * launchers import them. The versions are those of deno.lock, and the files are links to Deno's cache where that is
 * possible.
 */
import { dirname, join } from "node:path";

/** In the folder: what Deno has to be told with --import-map. */
export const IMPORT_MAP = "import_map.json";

/**
 * Makes the folder, or leaves it if it holds just these versions.
 *
 * @param root The repository.
 * @param names As deno.json's imports name them.
 * @param install Runs `deno install --frozen` in a folder.
 */
export async function makePackages(
  root: string,
  folder: string,
  names: readonly string[],
  install: (folder: string) => Promise<void>,
): Promise<void> {
  const { imports } = JSON.parse(await Deno.readTextFile(join(root, "deno.json")));
  const { version, specifiers, npm } = JSON.parse(await Deno.readTextFile(join(root, "deno.lock")));
  const wanted = names.map((name) => [name, imports[name]] as const);
  const lock = JSON.stringify({
    version,
    specifiers: Object.fromEntries(wanted.map(([, specifier]) => [specifier, specifiers[specifier]])),
    npm,
    workspace: { dependencies: wanted.map(([, specifier]) => specifier) },
  });
  const stamp = join(folder, "made_from.json");
  if (await Deno.readTextFile(stamp).catch(() => "") === lock) return;

  const fresh = `${folder}.${Deno.pid}.new`;
  try {
    await Deno.mkdir(fresh, { recursive: true });
    const write = (name: string, text: string) => Deno.writeTextFile(join(fresh, name), text);
    await write("deno.json", JSON.stringify({ imports: Object.fromEntries(wanted), nodeModulesDir: "auto" }));
    await write("deno.lock", lock);
    await install(fresh);
    // Without a package.json of ours Deno finds packages in Node's way only. All of a package is the default export.
    const shims = names.map((name, i) => [name, `./package_${i}.js`] as const);
    for (const [name, shim] of shims) {
      await write(
        shim,
        `import { createRequire } from "node:module";\n` +
          `export default createRequire(import.meta.url)(${JSON.stringify(name)});\n`,
      );
    }
    await write(IMPORT_MAP, JSON.stringify({ imports: Object.fromEntries(shims) }));
    await write("made_from.json", lock);
    await Deno.mkdir(dirname(folder), { recursive: true });
    await Deno.remove(folder, { recursive: true }).catch(() => {});
    await Deno.rename(fresh, folder);
  } finally {
    await Deno.remove(fresh, { recursive: true }).catch(() => {});
  }
}
