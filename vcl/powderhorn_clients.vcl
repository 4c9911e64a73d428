# Purges as content management systems and frameworks send them, for the whole fleet. In the place of
# powderhorn.vcl, which it includes, and in the same place in your VCL:
#
#	vcl 4.1;
#	import powderhorn;
#	include "powderhorn_clients.vcl";
#
# docs/CLIENTS.md has what each client sends and what happens then. These come together without
# getting in each other's way:
#
#	PURGE /url					any client; https://host/url as well (MediaWiki)
#	PURGE, X-Purge-Method: regex			WordPress (Proxy Cache Purge, WP Rocket)
#	PURGE, xkey or Surrogate-Key			Shopware, API Platform
#	PURGEKEYS, xkey-purge or xkey-softpurge		FOSHttpCache, Ibexa
#	PURGEKEYS with keys in the body, one a line	scripts
#	BAN, X-Host, X-Url, X-Content-Type, X-Cache-Tags, X-Site	FOSHttpCache, Neos
#	BAN, X-Cache-Tags alone				TYPO3 (nxvarnish), Drupal's handbook
#	BAN, ApiPlatform-Ban-Regex			API Platform
#	BAN, Cache-Tags or Purge-Cache-Tags		Drupal
#
# A BAN of none of these kinds, or of two, is answered with 400. Clients that ask by a method alone, or
# that need something of every response, have a file of their own (powderhorn_magento.vcl ...), to be
# included before this one.
#
# Read from: FOSHttpCache 2.15 and 3.0, Flowpack.Varnish 6, ibexa/http-cache 6, API Platform 2 and 3, Shopware 6.5 to 6.7,
# WordPress Proxy Cache Purge 5.2, WP Rocket 3, nxvarnish 4 to 6, Drupal's varnish_purge 8.x and its handbook,
# MediaWiki's CdnCacheUpdate and SquidPurgeClient.
#
# A regular expression from a client is only ever one test of a ban, which the VMOD tries out before.
# Bans are slower than keys, and one fits into a thousand bytes: where a regular expression only names
# tags, these are purged as keys.

import std;

sub vcl_recv {
	if (req.method == "PURGE") {
		call powderhorn_purge_forms;
	} elsif (req.method == "PURGEKEYS") {
		call powderhorn_admit;
		call powderhorn_purgekeys;
		return (synth(400, "Neither xkey-purge nor xkey-softpurge nor a body with keys"));
	} elsif (req.method == "BAN") {
		call powderhorn_admit;
		call powderhorn_ban_forms;
		return (synth(400, "No header says what to ban, see powderhorn_clients.vcl"));
	}
}

sub powderhorn_purge_forms {
	# As to a proxy. Varnish itself takes http:// apart, and https:// only if it is told to.
	if (req.url ~ "(?i)^https?://[^/?]") {
		set req.http.Host = regsub(req.url, "(?i)^https?://([^/?]*).*$", "\1");
		set req.url = regsub(req.url, "(?i)^https?://[^/?]*/?", "/");
	}
	if (req.http.xkey || req.http.Surrogate-Key) {
		call powderhorn_admit;
		set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.xkey + " " + req.http.Surrogate-Key);
		call powderhorn_answer;
	}
	if (req.http.X-Purge-Method ~ "(?i)^regex$") {
		# A path as it is, and ".*" after it.
		call powderhorn_admit;
		if (req.url == "/.*") {
			set req.http.X-Powderhorn-Id = powderhorn.flush(req.http.Host);
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.ban_url("^" +
			    powderhorn.escape(regsub(req.url, "\.\*$", "")));
		}
		call powderhorn_answer;
	}
}

sub powderhorn_purgekeys {
	if (req.http.xkey-softpurge) {
		set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.xkey-softpurge, soft = true);
		# With xkey-purge as well it takes both to answer 200.
		if (!req.http.xkey-purge || req.http.X-Powderhorn-Id == "") {
			call powderhorn_answer;
		}
		set req.http.X-Powderhorn-First = req.http.X-Powderhorn-Id;
	}
	if (req.http.xkey-purge) {
		set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.xkey-purge);
		call powderhorn_answer;
	}
	if (req.http.Transfer-Encoding || std.integer(req.http.Content-Length, 0) > 0) {
		# As many bytes as powderhorn.purge_key_body() takes. varnishd closes the connection, without
		# an answer, when a body turns out to be too long.
		if (std.integer(req.http.Content-Length, 0) > 1048576 || !std.cache_req_body(1MB)) {
			return (synth(400, "The body is too long"));
		}
		set req.http.X-Powderhorn-Id = powderhorn.purge_key_body();
		call powderhorn_answer;
	}
}

sub powderhorn_ban_forms {
	if (req.http.ApiPlatform-Ban-Regex) {
		if (req.http.Cache-Tags || req.http.Purge-Cache-Tags || req.http.X-Cache-Tags || req.http.X-Url) {
			return (synth(400, "Headers of two clients"));
		}
		set req.http.X-Powderhorn-Keys = powderhorn.tags("Cache-Tags", req.http.ApiPlatform-Ban-Regex);
		if (req.http.X-Powderhorn-Keys != "") {
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.X-Powderhorn-Keys);
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("Cache-Tags",
			    req.http.ApiPlatform-Ban-Regex);
		}
		call powderhorn_answer;
	}
	if (req.http.Cache-Tags || req.http.Purge-Cache-Tags) {
		if (req.http.X-Cache-Tags || req.http.X-Url) {
			return (synth(400, "Headers of two clients"));
		}
		if (req.http.Cache-Tags ~ "[][(){}^$*+?\\]") {
			if (req.http.Purge-Cache-Tags) {
				return (synth(400, "Headers of two clients"));
			}
			# No tag of Drupal's has any of these.
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("Cache-Tags", req.http.Cache-Tags);
		} else {
			# It joins tags by spaces, or as alternatives of a regular expression.
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(
			    regsuball(req.http.Cache-Tags + " " + req.http.Purge-Cache-Tags, "\|", " "));
		}
		call powderhorn_answer;
	}
	if (req.http.X-Host || req.http.X-Url || req.http.X-Content-Type || req.http.X-Site) {
		call powderhorn_ban_fos;
		call powderhorn_answer;
	}
	if (req.http.X-Cache-Tags) {
		set req.http.X-Powderhorn-Keys = powderhorn.tags("X-Cache-Tags", req.http.X-Cache-Tags);
		if (req.http.X-Powderhorn-Keys != "") {
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.X-Powderhorn-Keys);
		} elsif (req.http.X-Cache-Tags ~ "[][(){}^$*+?\\]|^;.*;$") {
			# nxvarnish's own form of a tag, where objects have ;tag;other; and any other regular expression.
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("X-Cache-Tags", req.http.X-Cache-Tags);
		} else {
			# A tag as it is, or several with | between them.
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("X-Cache-Tags", "(^|[;, ])(" +
			    regsuball(powderhorn.escape(req.http.X-Cache-Tags), "\\\|", "|") + ")($|[;, ])");
		}
		call powderhorn_answer;
	}
}

# FOSHttpCache: each header is a regular expression, and an object must pass all of them.
sub powderhorn_ban_fos {
	if (!req.http.X-Host) {
		set req.http.X-Host = ".*";
	}
	if (!req.http.X-Url) {
		set req.http.X-Url = ".*";
	}
	if (!req.http.X-Content-Type) {
		set req.http.X-Content-Type = ".*";
	}
	if (req.http.X-Site && req.http.X-Cache-Tags) {
		set req.http.X-Powderhorn-Id = powderhorn.ban(url = req.http.X-Url, host = req.http.X-Host,
		    content_type = req.http.X-Content-Type, header = "X-Cache-Tags",
		    regex = req.http.X-Cache-Tags, header_2 = "X-Site", regex_2 = req.http.X-Site);
	} elsif (req.http.X-Site) {
		set req.http.X-Powderhorn-Id = powderhorn.ban(url = req.http.X-Url, host = req.http.X-Host,
		    content_type = req.http.X-Content-Type, header = "X-Site", regex = req.http.X-Site);
	} elsif (req.http.X-Host != ".*" || req.http.X-Url != ".*" || req.http.X-Content-Type != ".*") {
		if (req.http.X-Cache-Tags) {
			set req.http.X-Powderhorn-Id = powderhorn.ban(url = req.http.X-Url, host = req.http.X-Host,
			    content_type = req.http.X-Content-Type, header = "X-Cache-Tags",
			    regex = req.http.X-Cache-Tags);
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.ban(url = req.http.X-Url, host = req.http.X-Host,
			    content_type = req.http.X-Content-Type);
		}
	} elsif (req.http.X-Cache-Tags) {
		set req.http.X-Powderhorn-Keys = powderhorn.tags("X-Cache-Tags", req.http.X-Cache-Tags);
		if (req.http.X-Powderhorn-Keys != "") {
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.X-Powderhorn-Keys);
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("X-Cache-Tags", req.http.X-Cache-Tags);
		}
	} else {
		set req.http.X-Powderhorn-Id = powderhorn.purge_all();
	}
}

sub vcl_synth {
	# A VCL that failed has lost what it noted in the request. 400, and the reason.
	if ((req.method == "PURGE" || req.method == "PURGEKEYS" || req.method == "BAN") && powderhorn.refused()) {
		set req.http.X-Powderhorn-Answer = "text";
	}
}

# Tags are for caches. A cache in front that has keys of its own gets them if it is one of
# powderhorn_purgers. (Cache-Tag and Cache-Groups are for whoever is in front, and stay.)
sub vcl_deliver {
	if (client.ip !~ powderhorn_purgers) {
		unset resp.http.xkey;
		unset resp.http.Surrogate-Key;
		unset resp.http.Cache-Tags;
		unset resp.http.X-Cache-Tags;
		unset resp.http.Purge-Cache-Tags;
		unset resp.http.X-Key-Tags;
		unset resp.http.X-Site;
	}
}

include "powderhorn.vcl";
