/** What the page and its service worker have to call alike. */

/** Blocks that were read, least recently used out first. */
export const BLOCK_CACHE = 'linux-vm-blocks';
/** Blocks of raw images, by 128 KiB of the image. */
export const RANGE_CACHE = 'linux-vm-ranges';
/** Disk manifests as they last came from the network. */
export const MANIFEST_CACHE = 'linux-vm-manifests';
/** One cache for each disk that was made available offline: nothing but its owner removes from it. */
export const OFFLINE_PREFIX = 'linux-vm-offline:';

/** Held, shared, by every page in which a machine runs. */
export const RUNNING_LOCK = 'linux-vm-running';

/** Asks a waiting service worker to take over; it answers on the port that comes with it with an UpdateAnswer. */
export const TAKE_OVER = 'linux-vm-take-over';
export type UpdateAnswer = 'reloading' | 'machine-running';
