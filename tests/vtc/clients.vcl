# For the VTCs of clients (d*): an origin that answers with the headers that are asked of it, by see.sh; whether
# a page was in the cache; and answers to purges that come when both nodes have applied them.

sub vcl_backend_response {
	set beresp.ttl = 1h;
	set beresp.grace = 0s;
	if (bereq.http.Origin-Content-Type) {
		set beresp.http.Content-Type = bereq.http.Origin-Content-Type;
	}
	if (bereq.http.Origin-xkey) {
		set beresp.http.xkey = bereq.http.Origin-xkey;
	}
	if (bereq.http.Origin-Surrogate-Key) {
		set beresp.http.Surrogate-Key = bereq.http.Origin-Surrogate-Key;
	}
	if (bereq.http.Origin-Cache-Tags) {
		set beresp.http.Cache-Tags = bereq.http.Origin-Cache-Tags;
	}
	if (bereq.http.Origin-X-Cache-Tags) {
		set beresp.http.X-Cache-Tags = bereq.http.Origin-X-Cache-Tags;
	}
	if (bereq.http.Origin-X-Magento-Tags) {
		set beresp.http.X-Magento-Tags = bereq.http.Origin-X-Magento-Tags;
	}
	if (bereq.http.Origin-X-Pool) {
		set beresp.http.X-Pool = bereq.http.Origin-X-Pool;
	}
	if (bereq.http.Origin-X-Site) {
		set beresp.http.X-Site = bereq.http.Origin-X-Site;
	}
	if (bereq.http.Origin-X-Acquia-Site) {
		set beresp.http.X-Acquia-Site = bereq.http.Origin-X-Acquia-Site;
		set beresp.http.X-Acquia-Purge-Tags = bereq.http.Origin-X-Acquia-Purge-Tags;
	}
}

sub vcl_deliver {
	set resp.http.hits = obj.hits;
}

sub vcl_synth {
	# Without the client's asking.
	if (req.http.X-Powderhorn-First) {
		set resp.http.first = req.http.X-Powderhorn-First;
	}
	if (req.http.X-Powderhorn-Id && resp.status == 200) {
		set resp.http.everywhere = powderhorn.wait(req.http.X-Powderhorn-Id, 20s);
	}
}
