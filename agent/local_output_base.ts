import { join } from "node:path";
import { RbsError } from "../proto/errors.ts";
import { shell } from "./shell.ts";

/** What of the real output base is shown in the developer's own; of `external` only the repositories themselves. */
export const LINKED_NAMES = [
  "execroot",
  "command.log",
  "command.profile.gz",
  "java.log",
] as const;

/** For scripts: `$ob` is the developer's output base, `$storage` the session's. */
const FUNCTIONS = `shopt -s nullglob
# An older copy from before RBS is worth less than the present one.
put_aside() {
  if [[ -e $ob/$1.before-rbs ]]; then chmod -R u+w -- "$ob/$1.before-rbs"; rm -rf -- "$ob/$1.before-rbs"; fi
  mv -T -- "$ob/$1" "$ob/$1.before-rbs"
}
is_repository() { [[ $1 != @* && $1 != *.marker && $1 != *.recorded_inputs ]]; }
# Whether nothing but links to repositories is in it.
is_ours() {
  local path
  for path in "$ob"/external/* "$ob"/external/.[!.]*; do
    [[ -L $path && $(readlink -- "$path"; echo x) == "$storage/external/\${path##*/}"$'\\n'x ]] || return
  done
}`;

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
 *
 *     execroot, command.log, …  -> storage/…
 *     external/REPOSITORY       -> storage/external/REPOSITORY
 *
 * A Bazel server of the developer's own may come to stand there one day, be it that all of RBS was killed. It must not
 * believe what is behind the links: it knows repositories by `external/@REPOSITORY.marker`, which is not shown, and
 * outputs by `action_cache`, which is put aside.
 */
export class LocalOutputBase {
  readonly #options: LocalOutputBaseOptions;
  /** How both folders of repositories looked when the links were made. */
  #repositories?: string;

  constructor(options: LocalOutputBaseOptions) {
    this.#options = options.namespace.synced ? { ...options, outputBase: undefined } : options;
  }

  /**
   * Makes the links that are missing. What stood there before (an output base used without RBS) is kept as
   * `<name>.before-rbs`. Costs a look at each link when nothing is to be done. Rejects with an RbsError.
   */
  async ensure(): Promise<void> {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    if (outputBase === undefined) return;
    const isDone = LINKED_NAMES.every((name) => this.#isLinked(name)) && !isThere(join(outputBase, "action_cache")) &&
      this.#areRepositoriesLinked();
    if (isDone) return;
    // Before they are listed: one that comes meanwhile is linked the next time.
    const repositories = look(join(storageOutputBase, "external"));
    await this.#script(
      `${FUNCTIONS}
[[ -d $ob ]] || mkdir -p -- "$ob" || exit
new=()
for name; do
  [[ -L $ob/$name && $(readlink -- "$ob/$name"; echo x) == "$storage/$name"$'\\n'x ]] && continue
  if [[ -L $ob/$name || ! -e $ob/$name ]]; then
    new+=("$storage/$name")
  else
    put_aside "$name" && ln -s -- "$storage/$name" "$ob/$name" || exit
  fi
done
# All at once: a developer waits for it.
((! \${#new[@]})) || ln -sfn -t "$ob" -- "\${new[@]}" || exit
# Servers since 7 use sandboxes that an earlier one has left.
if [[ -L $ob/sandbox ]]; then rm -f -- "$ob/sandbox" || exit; fi
if [[ -e $ob/action_cache ]]; then put_aside action_cache || exit; fi
if [[ -L $ob/external ]]; then rm -f -- "$ob/external" || exit; fi
if [[ -e $ob/external ]] && ! is_ours; then put_aside external || exit; fi
mkdir -p -- "$ob/external" || exit
new=()
for link in "$ob"/external/*; do [[ -L $storage/external/\${link##*/} || -d $link ]] || rm -f -- "$link"; done
for path in "$storage"/external/*; do
  name=\${path##*/}
  is_repository "$name" && [[ -d $path || -L $path ]] && [[ ! -L $ob/external/$name ]] && new+=("$path")
done
((! \${#new[@]})) || ln -s -t "$ob/external" -- "\${new[@]}"`,
      outputBase,
      storageOutputBase,
    );
    this.#repositories = `${look(join(outputBase, "external"))} ${repositories}`;
  }

  /** Takes the links away and puts back what stood there before: the developer's client will use a local server. */
  async restore(): Promise<void> {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    if (outputBase === undefined) return;
    this.#repositories = undefined;
    await this.#script(
      `${FUNCTIONS}
put_back() { if [[ -e $ob/$1.before-rbs || -L $ob/$1.before-rbs ]]; then mv -T -- "$ob/$1.before-rbs" "$ob/$1"; fi; }
for name; do
  [[ -L $ob/$name && $(readlink -- "$ob/$name"; echo x) == "$storage/$name"$'\\n'x ]] || continue
  rm -f -- "$ob/$name" && put_back "$name" || exit
done
if [[ -L $ob/external && $(readlink -- "$ob/external"; echo x) == "$storage/external"$'\\n'x ]]; then rm -f -- "$ob/external"; fi
if [[ -d $ob/external && ! -L $ob/external ]] && is_ours; then rm -rf -- "$ob/external" || exit; fi
for name in external action_cache; do [[ -e $ob/$name ]] || put_back "$name" || exit; done`,
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
[[ -n $ob ]] && for name in "$@" external action_cache; do doomed+=("$ob/$name"); done
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

  /** Whether the repositories are those that were linked, and nobody has touched the links since. */
  #areRepositoriesLinked(): boolean {
    const { outputBase, namespace: { storageOutputBase } } = this.#options;
    const now = () => [outputBase!, storageOutputBase].map((base) => look(join(base, "external"))).join(" ");
    return this.#repositories !== undefined && this.#repositories === now();
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

/** How a folder looks: a name that is made in it, or goes, changes that. */
function look(folder: string): string {
  try {
    const { isDirectory, mtime, ino } = Deno.lstatSync(folder);
    return isDirectory ? `${ino}@${mtime?.getTime()}` : "other";
  } catch {
    return "none";
  }
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}
