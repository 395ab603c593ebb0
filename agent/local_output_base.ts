import { join } from "node:path";
import { RbsError } from "../proto/errors.ts";
import { shell } from "./shell.ts";

/** What of the real output base is shown in the developer's own. */
export const LINKED_NAMES = [
  "execroot",
  "external",
  "command.log",
  "command.profile.gz",
  "java.log",
  "sandbox",
] as const;

/** Parts of a {@link LocalOutputBase}. */
export interface LocalOutputBaseOptions {
  /** The developer's output base, outside of the namespace; undefined: there is none. */
  outputBase?: string;
  /** Knows the session's output base in its storage. A synced session's developer has his output base elsewhere. */
  namespace: { readonly storageOutputBase: string; readonly synced?: boolean };
}

/**
 * The developer's output base on the agent's machine: links by which `bazel-bin/…` leads to the storage. bash makes
 * them, since Deno asks for the right to write everywhere before it makes a symlink.
 */
export class LocalOutputBase {
  readonly #options: LocalOutputBaseOptions;

  constructor(options: LocalOutputBaseOptions) {
    this.#options = options.namespace.synced ? { ...options, outputBase: undefined } : options;
  }

  /**
   * Makes the links that are missing. What stood there before (an output base used without RBS) is kept as
   * `<name>.before-rbs`. Costs six readlinks when nothing is to be done. Rejects with an RbsError.
   */
  async ensure(): Promise<void> {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    if (outputBase === undefined || LINKED_NAMES.every((name) => this.#isLinked(name))) return;
    await this.#script(
      `[[ -d $ob ]] || mkdir -p -- "$ob" || exit
new=()
for name; do
  [[ -L $ob/$name && $(readlink -- "$ob/$name"; echo x) == "$storage/$name"$'\\n'x ]] && continue
  if [[ -L $ob/$name || ! -e $ob/$name ]]; then
    new+=("$storage/$name")
  else
    # An older copy from before RBS is worth less than the present one.
    if [[ -e $ob/$name.before-rbs ]]; then chmod -R u+w -- "$ob/$name.before-rbs"; rm -rf -- "$ob/$name.before-rbs"; fi
    mv -T -- "$ob/$name" "$ob/$name.before-rbs" && ln -s -- "$storage/$name" "$ob/$name" || exit
  fi
done
# All at once: a developer waits for it.
((! \${#new[@]})) || ln -sfn -t "$ob" -- "\${new[@]}"`,
      outputBase,
      storageOutputBase,
    );
  }

  /** Takes the links away and puts back what stood there before: the developer's client will use a local server. */
  async restore(): Promise<void> {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    if (outputBase === undefined) return;
    await this.#script(
      `for name; do
  [[ -L $ob/$name && $(readlink -- "$ob/$name"; echo x) == "$storage/$name"$'\\n'x ]] || continue
  rm -f -- "$ob/$name" || exit
  if [[ -e $ob/$name.before-rbs || -L $ob/$name.before-rbs ]]; then mv -T -- "$ob/$name.before-rbs" "$ob/$name" || exit; fi
done`,
      outputBase,
      storageOutputBase,
    );
  }

  /** Empties the session's output base, and drops what the developer's held before RBS: `clean --expunge`. */
  async expunge(): Promise<void> {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    await this.restore();
    await this.#script(
      `shopt -s dotglob nullglob
doomed=("$storage"/*)
[[ -n $ob ]] && for name; do doomed+=("$ob/$name"); done
for path in "\${doomed[@]}"; do
  # Bazel's background deletion may be at it as well; whoever comes second finds less.
  for attempt in 1 2 3; do
    chmod -R u+rwX -- "$path" 2>/dev/null
    if rm -rf -- "$path" 2>/dev/null; then break; fi
  done
  [[ -e $path ]] && { rm -rf -- "$path" || exit; }
done
true`,
      outputBase ?? "",
      storageOutputBase,
    );
  }

  #isLinked(name: string): boolean {
    try {
      return Deno.readLinkSync(join(this.#options.outputBase!, name)) ===
        join(this.#options.namespace.storageOutputBase, name);
    } catch {
      return false;
    }
  }

  async #script(script: string, outputBase: string, storage: string): Promise<void> {
    const { code, stderr } = await shell(`ob=$1 storage=$2; shift 2\n${script}`, [
      outputBase,
      storage,
      ...LINKED_NAMES,
    ]);
    if (code !== 0) {
      throw new RbsError(
        `The links in the output base ${outputBase} cannot be made (${
          stderr.trim().split("\n")[0]
        }): mend the rights of that folder.`,
        { culprit: "caller" },
      );
    }
  }
}
