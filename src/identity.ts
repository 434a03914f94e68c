import type { Identity } from './agent/client.ts';

/** What a machine must not share with another that began from the same snapshot. */
export function newIdentity(hostname: string | undefined): Identity {
  const random = crypto.getRandomValues(new Uint8Array(64 + 16 + 4));
  const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return {
    seed: random.subarray(0, 64),
    machineId: hex(random.subarray(64, 80)),
    // Locally administered.
    mac: Uint8Array.of(0x02, 0x4c, ...random.subarray(80)),
    hostname,
  };
}
