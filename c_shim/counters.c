/*
 * The VMOD's figures in the shared memory that varnishstat reads.
 */
#include <stdarg.h>

#include "cache/cache_varnishd.h"

#include "powderhorn_shim.h"

/*
 * VRT_VSC_Alloc takes the list of arguments that its format needs. Ours is empty: what it makes comes
 * after a dot, and each figure's name is to have one dot only.
 */
static void *
allocate(struct vsc_seg **segment, const char *name, size_t bytes, const char *doc, size_t doc_len,
    const char *format, ...)
{
	va_list ap;
	void *figures;

	va_start(ap, format);
	figures = VRT_VSC_Alloc(NULL, segment, name, bytes, (const unsigned char *)doc, doc_len,
	    format, ap);
	va_end(ap);
	return (figures);
}

uint64_t *
ph_counters(const char *name, size_t n, const char *doc, size_t doc_len)
{
	struct vsc_seg *segment = NULL;

	ASSERT_CLI();
	AN(n);
	return (allocate(&segment, name, n * sizeof(uint64_t), doc, doc_len, ""));
}
