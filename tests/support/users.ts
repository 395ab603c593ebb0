import { openAuthority } from "../../orchestrator/identity/local_keys.ts";
import { writeCredentials } from "../../proto/identity/key_directory.ts";
import type { Cluster } from "./cluster.ts";
import { tempDir } from "./temp_dir.ts";

/** Another user of a cluster on this machine. Their keys go with the scope. */
export interface ClusterUser extends AsyncDisposable {
  /** The variables with which their proxy and jbazel find the orchestrator. */
  env: Record<string, string>;
}

/** Certifies one more user of a cluster, by its own authority. */
export async function clusterUser(cluster: Cluster, userId: string): Promise<ClusterUser> {
  const state = await tempDir("rbs-user-");
  const authority = await openAuthority(cluster.state);
  writeCredentials(state.path, "user", await authority.newCredentials({ kind: "user", userId }));
  return {
    env: { ...cluster.env, RBS_STATE_DIR: state.path },
    [Symbol.asyncDispose]: () => state[Symbol.asyncDispose](),
  };
}
