import { basename, dirname, join } from "node:path";
import { isAtOrIn } from "../proto/base/absolute_path.ts";
import { RbsError, sentence } from "../proto/base/errors.ts";
import { realPath } from "../proto/base/real_path.ts";
import { systemFolderOf } from "../proto/base/system_folders.ts";
import type { OutsideAuthority } from "./identity/local_keys.ts";
import type { StoreLocation } from "./store/store_location.ts";

/** What {@link trustedPaths} looks at. Absolute paths. */
export interface TrustedPathsOptions {
  readonly stateDir: string;
  readonly storageRoot: string;
  readonly store: StoreLocation;
  readonly outsideAuthority?: OutsideAuthority;
  readonly synced: boolean;
  /** The orchestrator's environment. */
  readonly environment: (name: string) => string | undefined;
}

/**
 * All files and folders by which an orchestrator is trusted, or that hold what others entrust to it, wherever they lie: no
 * session may see them. Real paths, so that nobody who can move a symlink decides what is meant; some may not be there
 * yet. Throws an RbsError for what cannot be hidden.
 */
export function trustedPaths(options: TrustedPathsOptions): string[] {
  const { stateDir, storageRoot, store, outsideAuthority, synced, environment } = options;
  const paths = [stateDir, storageRoot, ...userKeys(environment)];
  if (outsideAuthority) paths.push(outsideAuthority.keyFile, outsideAuthority.certificateFile);
  if (store.kind === "spanner") paths.push(...spannerKeys(environment));
  const real = paths.map((path) => realName(path));
  if (store.kind === "sqlite") {
    const file = realName(store.file);
    if (!real.some((folder) => isAtOrIn(file, folder))) real.push(storeFolder(file, synced));
  }
  return [...new Set(real)];
}

/** Where `jbazel login` puts the keys of this machine's user, which count for sessions of the same user. */
function userKeys(environment: TrustedPathsOptions["environment"]): string[] {
  const home = environment("HOME");
  const states = [
    environment("RBS_STATE_DIR"),
    join(environment("XDG_STATE_HOME") ?? "", "rbs"),
    ...(home ? [join(home, ".local/state/rbs")] : []),
  ];
  return states.filter((path) => path?.startsWith("/")).map((path) => join(path!, "keys"));
}

/** What the Spanner library gets in with, see Google's "Application Default Credentials". */
function spannerKeys(environment: TrustedPathsOptions["environment"]): string[] {
  const [named, home] = [environment("GOOGLE_APPLICATION_CREDENTIALS"), environment("HOME")];
  return [...named?.startsWith("/") ? [named] : [], ...home ? [join(home, ".config/gcloud")] : []];
}

/**
 * The folder of an SQLite file. SQLite makes files beside it and removes them again, which no cover outlives: so the folder
 * is hidden as a whole, and must have nothing else.
 */
function storeFolder(file: string, synced: boolean): string {
  const folder = dirname(file);
  // In a synced session nothing of this machine is to be seen but its system folders.
  if (synced && systemFolderOf(file) === undefined) return folder;
  let others: string[];
  try {
    others = Array.from(Deno.readDirSync(folder), ({ name }) => name).filter((name) =>
      !name.startsWith(basename(file))
    );
  } catch (cause) {
    throw new RbsError(
      `The folder of the store ${file} cannot be looked at (${sentence(cause)}): name another with --store.`,
      { cause, culprit: "caller" },
    );
  }
  if (others.length === 0) return folder;
  throw new RbsError(
    `The store ${file} lies beside other files (${others[0]}), so it cannot be hidden from sessions: ` +
      `give it a folder of its own, or put it into the state directory.`,
    { culprit: "caller" },
  );
}

function realName(path: string): string {
  try {
    return realPath(path);
  } catch {
    // It may not be looked at: then it is meant by its name, and agents look.
    return path;
  }
}
