/*
 * Strings that VCL gets and that no workspace has room for: on the heap, until the task ends.
 */
#include <stdlib.h>

#include "cache/cache_varnishd.h"

#include "powderhorn_shim.h"

struct text {
	VSLIST_ENTRY(text)	list;
	char			bytes[];
};

struct kept {
	unsigned		magic;
#define KEPT_MAGIC		0x70680003
	size_t			bytes;
	VSLIST_HEAD(,text)	texts;
};

static void v_matchproto_(vmod_priv_fini_f)
let_go(VRT_CTX, void *priv)
{
	struct kept *kept;
	struct text *text;

	(void)ctx;
	CAST_OBJ_NOTNULL(kept, priv, KEPT_MAGIC);
	while (!VSLIST_EMPTY(&kept->texts)) {
		text = VSLIST_FIRST(&kept->texts);
		VSLIST_REMOVE_HEAD(&kept->texts, list);
		free(text);
	}
	FREE_OBJ(kept);
}

static const struct vmod_priv_methods kept_methods[1] = {{
	.magic =	VMOD_PRIV_METHODS_MAGIC,
	.type =		"powderhorn_kept",
	.fini =		let_go,
}};

char *
ph_ctx_keep(const struct vrt_ctx *ctx, size_t len)
{
	struct vmod_priv *priv;
	struct kept *kept;
	struct text *text;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	priv = VRT_priv_task(ctx, kept_methods);
	if (priv == NULL)
		return (NULL);
	if (priv->priv == NULL) {
		ALLOC_OBJ(kept, KEPT_MAGIC);
		if (kept == NULL)
			return (NULL);
		VSLIST_INIT(&kept->texts);
		priv->priv = kept;
		priv->methods = kept_methods;
	}
	CAST_OBJ_NOTNULL(kept, priv->priv, KEPT_MAGIC);
	if (len > PH_KEPT_BYTES_MAX - kept->bytes)
		return (NULL);
	text = calloc(1, sizeof *text + len);
	if (text == NULL)
		return (NULL);
	kept->bytes += len;
	VSLIST_INSERT_HEAD(&kept->texts, text, list);
	return (text->bytes);
}
