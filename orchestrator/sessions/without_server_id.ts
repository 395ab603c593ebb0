/**
 * Sessions without a ServerId, of proxies from before there were any. One goes on serving its laptop when that gets a newer
 * proxy: the session keeps its key, and notes the ServerId that it was adopted by.
 */
import type { Session, SessionKey } from "../store/session.ts";
import type { SessionStore } from "../store/session_store.ts";

/** The key that an old proxy has for the same workspace. */
export function withoutServerId<Key extends SessionKey>(key: Key): Key {
  return { ...key, serverId: "" };
}

/** Whether a session can serve the caller with this ServerId. */
export function mayAdopt(session: Session | undefined, serverId: string): boolean {
  return session?.status === "READY" && session.serverId === "" &&
    (session.adoptedBy === "" || session.adoptedBy === serverId);
}

/** The key of the session that serves this key: its own, or that of the session without a ServerId that it has adopted. */
export async function servedBy(key: SessionKey, store: SessionStore): Promise<SessionKey> {
  if (key.serverId === "" || await store.get(key)) return key;
  const former = withoutServerId(key);
  return (await store.get(former))?.adoptedBy === key.serverId ? former : key;
}
