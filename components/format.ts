/** Sizes and rates in words, decimal as disks are sold and networks are measured. */
export function bytesText(bytes: number): string {
  if (!Number.isFinite(bytes)) return 'unknown';
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = -1;
  do {
    value /= 1000;
    unit++;
  } while (value >= 999.5 && unit < units.length - 1);
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function percentText(part: number, whole: number): string {
  if (whole <= 0) return '–';
  const percent = (100 * part) / whole;
  // "100 %" only when it is.
  return part < whole && percent > 99 ? `${Math.min(99.9, percent).toFixed(1)} %` : `${Math.round(percent)} %`;
}

/** `3 min`, `2 h 5 min`, for times that are long enough to be waited for. */
export function durationText(seconds: number): string {
  if (seconds < 1) return 'a moment';
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function dateText(milliseconds: number): string {
  return new Date(milliseconds).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

export function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
